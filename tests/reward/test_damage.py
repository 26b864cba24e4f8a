"""Damaged blocks of the region, a full cache disk and slow encodes.

No request is left out for them.
"""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.transport import protocol
from segr1_jax.types import ScoreStatus

pytestmark = pytest.mark.e2e  # a sidecar process for each

ROOT = Path(__file__).parents[2]
DAMAGED_BYTES = 1 << 18
SIDECAR = "import sys\nif any('segr1_jax.reward.sidecar.server' in w for w in sys.orig_argv):\n"
SCRIBBLE_ONCE = f"""
    from segr1_jax.reward.transport import protocol
    set_working, told = protocol.set_working, []
    def scribble(region, seq):
        set_working(region, seq)
        if told and not seq and len(told) == 1:
            region[64:64 + {DAMAGED_BYTES}] = bytes(255 for _ in range({DAMAGED_BYTES}))
        told.append(seq) if not seq else None
    protocol.set_working = scribble
"""
FULL_DISK = """
    import errno
    from segr1_jax.reward.sidecar import embeddings
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")
    embeddings.replacing = full
"""
SLOW_ENCODE = """
    import time
    from segr1_jax.reward.sidecar.sam2_model import Sam2
    encode = Sam2.encode
    def slow(self, image):
        time.sleep({seconds})
        return encode(self, image)
    Sam2.encode = slow
"""


@pytest.fixture
def in_sidecar(tmp_path, monkeypatch):
    """Runs indented statements at the start of every sidecar."""

    def install(text: str) -> None:
        (tmp_path / "sitecustomize.py").write_text(SIDECAR + text)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(tmp_path))))

    return install


@pytest.fixture(scope="module")
def expected(requests):
    with RewardClient(RewardConfig()) as client:
        return client.collect(client.submit(requests))


def assert_same(scores, expected):
    for score, want in zip(scores, expected, strict=True):
        assert score.status is ScoreStatus.OK
        assert (score.iou, score.s_measure) == (want.iou, want.s_measure)
        if want.mask is not None:
            np.testing.assert_array_equal(score.mask, want.mask)


def test_garbage_in_the_data_blocks_is_written_anew(requests, expected):
    with RewardClient(RewardConfig(cache_mb=0)) as client:
        (pid,) = client.sidecar_pids
        os.kill(pid, signal.SIGSTOP)
        ticket = client.submit(requests)
        region = client._channels[0]._region
        garbage = np.random.default_rng(0).bytes(DAMAGED_BYTES)
        region[protocol.HEADER_BYTES : protocol.HEADER_BYTES + DAMAGED_BYTES] = garbage
        os.kill(pid, signal.SIGCONT)
        assert_same(client.collect(ticket), expected)
        totals = client.stats().totals
    assert totals["quarantined"] == totals["restarts"] == 0
    assert totals["damaged"] > 0


def test_a_damaged_result_is_asked_for_again(requests, expected, in_sidecar):
    in_sidecar(SCRIBBLE_ONCE)
    with RewardClient(RewardConfig()) as client:
        assert_same(client.collect(client.submit(requests)), expected)
        assert client.stats().totals["quarantined"] == 0


def test_a_full_cache_disk_switches_the_files_off(requests, expected, in_sidecar, tmp_path, caplog):
    in_sidecar(FULL_DISK)
    config = RewardConfig(cache_dir=str(tmp_path / "cache"))
    with RewardClient(config, tmp_path / "incidents") as client:
        assert_same(client.collect(client.submit(requests)), expected)
        totals = client.stats().totals
    assert totals["quarantined"] == totals["restarts"] == 0
    said = [r.getMessage() for r in caplog.records if "No space left" in r.getMessage()]
    assert len(said) == 1
    (note,) = (tmp_path / "incidents").glob("notes_*.txt")
    assert "No space left" in note.read_text()


def test_the_deadline_follows_the_start_up_encode(requests, in_sidecar):
    in_sidecar(SLOW_ENCODE.format(seconds=1.6))
    with RewardClient(RewardConfig(request_timeout_s=1)) as client:
        (score,) = client.collect(client.submit(requests[1:2]))
        totals = client.stats().totals
    assert score.status is ScoreStatus.OK
    assert totals["restarts"] == 0


def test_waiting_in_line_is_not_counted(requests, in_sidecar):
    """24 encodes of 0.3 s take longer together than the deadline of 1.5 s, each of them less."""
    in_sidecar(SLOW_ENCODE.format(seconds=0.3))
    with RewardClient(RewardConfig(request_timeout_s=1, cache_mb=0)) as client:
        scores = client.collect(client.submit(requests))
        assert client.stats().totals["restarts"] == 0
    assert all(score.status is ScoreStatus.OK for score in scores)

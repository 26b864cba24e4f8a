"""Sidecars that are killed, stopped, stuck, or brought down by their request.

Several sidecars at once, and the incidents that are kept, are tested too.
"""

import os
import signal
import stat
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.transport import protocol
from segr1_jax.reward.transport.incidents import MAX_FILES, Incidents
from segr1_jax.reward.transport.process import Ending
from segr1_jax.reward.transport.prompts_block import unpack_prompts
from segr1_jax.reward.transport.protocol import Kind, Request
from segr1_jax.types import ScoreStatus

pytestmark = pytest.mark.e2e  # a sidecar process for each

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sabotage(tmp_path, monkeypatch):
    """Runs a text at the start of every sidecar.

    `when(size)` is called in each request for a score.
    """

    def install(text: str) -> None:
        hook = "\nfrom segr1_jax.reward import scores\nunharmed = scores.capped_size\n"
        hook += "def capped_size(size, cap):\n    when(size)\n    return unharmed(size, cap)\n"
        hook += "scores.capped_size = capped_size\n"
        (tmp_path / "sitecustomize.py").write_text("import os, signal, time\n" + text + hook)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(tmp_path))))

    return install


def test_a_request_that_brings_it_down_twice_is_quarantined_and_kept(requests, sabotage, tmp_path):
    sabotage("def when(size):\n    if size == (120, 120): os.abort()\n")
    batch = [requests[1], requests[2], requests[3]]  # the middle one is 120 pixels wide
    with RewardClient(RewardConfig(), tmp_path / "incidents") as client:
        scores = client.collect(client.submit(batch))
        totals = client.stats().totals
    assert [s.status for s in scores] == [ScoreStatus.OK, ScoreStatus.QUARANTINED, ScoreStatus.OK]
    assert (totals["quarantined"], totals["restarts"]) == (1, 2)
    (kept,) = (tmp_path / "incidents").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    with np.load(kept) as content:
        np.testing.assert_array_equal(content["image"], batch[1].image)
        np.testing.assert_array_equal(content["mask"], batch[1].mask)
        (prompt, *_) = unpack_prompts(content["prompts"].tobytes(), int(content["count"]))
        assert "exit status -6" in str(content["obituary"])
    np.testing.assert_array_equal(prompt.box, batch[1].prompts[0].box)


def test_who_is_killed_from_outside_in_the_same_request_is_not_quarantined(
    requests, sabotage, tmp_path
):
    marks = tmp_path / "marks"
    marks.mkdir()
    # Three times whoever comes to the wide request is killed from outside (by its own hand, but by
    # a signal of outsiders).
    sabotage(
        f"def when(size):\n    if size == (120, 120) and len(os.listdir('{marks}')) < 3:\n"
        f"        open('{marks}/' + str(os.getpid()), 'w').close()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with RewardClient(RewardConfig()) as client:
        scores = client.collect(client.submit(requests[1:4]))
        totals = client.stats().totals
    assert [s.status for s in scores] == [ScoreStatus.OK] * 3
    assert (totals["quarantined"], totals["restarts"]) == (0, 3)


def test_a_stuck_request_is_named_with_the_stacks_of_both_sides(requests, sabotage, tmp_path):
    sabotage("def when(size):\n    if size == (120, 120): time.sleep(600)\n")
    with RewardClient(RewardConfig(request_timeout_s=2), tmp_path / "incidents") as client:
        (score,) = client.collect(client.submit(requests[2:3]))
    assert score.status is ScoreStatus.QUARANTINED
    stacks = sorted((tmp_path / "incidents").glob("stacks_*.txt"))
    assert len(stacks) == 2
    text = stacks[0].read_text()
    assert "score of a 120x120 image, 2 prompts) in progress, 1 waiting for an answer" in text
    trainer, sidecar = text.split("\nSidecar:\n")
    assert "in collect" in trainer
    assert "in when" in sidecar


def test_a_stopped_idle_sidecar_is_replaced_after_the_heartbeat_deadline(requests):
    with RewardClient(RewardConfig(heartbeat_timeout_s=1.0)) as client:
        (first,) = client.sidecar_pids
        os.kill(first, signal.SIGSTOP)
        deadline = time.monotonic() + 60
        while client.sidecar_pids == [first] and time.monotonic() < deadline:
            time.sleep(0.1)
        assert client.sidecar_pids != [first]
        assert client.collect(client.submit(requests[:1]))[0].status is ScoreStatus.OK


def test_several_sidecars_share_the_images_and_score_alike(requests, reward_config):
    with RewardClient(reward_config) as one, RewardClient(RewardConfig(sidecars=2, queue=4)) as two:
        expected, got = (client.collect(client.submit(requests)) for client in (one, two))
        assert [(s.iou, s.s_measure) for s in got] == [(s.iou, s.s_measure) for s in expected]
        assert len(set(two.sidecar_pids)) == 2
        totals = two.stats().totals
        assert totals["encodes"] == len(
            {r.image.tobytes() for r in requests}
        )  # an image has one home
        assert all(channel.totals()["scores"] for channel in two._channels)


def test_the_end_of_the_thread_that_started_it_kills_nothing(requests):
    client = RewardClient(RewardConfig())
    starter = threading.Thread(target=client.start)
    starter.start()
    starter.join()
    try:
        pids = client.sidecar_pids
        time.sleep(1.0)
        assert client.collect(client.submit(requests[:2]))[1].status is ScoreStatus.OK
        assert client.sidecar_pids == pids
    finally:
        client.close()


@pytest.mark.parametrize(
    ("ending", "own_fault"),
    [
        (Ending(1, ""), True),
        (Ending(-signal.SIGSEGV, ""), True),
        (Ending(-signal.SIGKILL, ""), False),
        (Ending(-signal.SIGKILL, "", out_of_memory=True), True),
        (Ending(-signal.SIGTERM, ""), False),
    ],
)
def test_whose_fault_an_ending_is(ending, own_fault):
    assert ending.own_fault is own_fault


def test_the_incidents_folder_is_private_and_bounded(tmp_path):
    folder = tmp_path / "incidents"
    incidents = Incidents(folder)
    _, region = protocol.create_region(1 << 16)
    request = Request(Kind.ENCODE, 1, b"x" * 16, 64, 0, 0, 0, 8, 8, 0, 0, 0, 0)
    for _ in range(MAX_FILES + 3):
        incidents.quarantine(request, region, "it was late")
    incidents.missed_deadline("waited for nothing", "(none)")
    assert Counter(path.suffix for path in folder.iterdir()) == {".npz": MAX_FILES, ".txt": 1}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    Incidents(None).quarantine(request, region, "only logged")

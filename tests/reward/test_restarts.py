"""A sidecar that does not come up.

Only the first start may blame the configuration, later ones are tried again.
"""

import os
import signal
from pathlib import Path

import pytest

from segr1_jax.errors import UserError
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.transport import supervisor
from segr1_jax.reward.transport.supervisor import SidecarLost
from segr1_jax.types import ScoreStatus

pytestmark = pytest.mark.e2e  # a sidecar process for each

ROOT = Path(__file__).parents[2]
START = """
import os, signal, sys
if any("segr1_jax.reward.sidecar.server" in word for word in sys.orig_argv):
    number = len(os.listdir({marks!r}))
    open(os.path.join({marks!r}, str(number)), "w").close()
    {act}
"""


@pytest.fixture
def at_start(tmp_path, monkeypatch):
    """Runs a statement at the start of every sidecar; `number` counts them from 0."""

    def install(act: str) -> Path:
        marks = tmp_path / "marks"
        marks.mkdir()
        (tmp_path / "sitecustomize.py").write_text(START.format(marks=str(marks), act=act))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(tmp_path))))
        return marks

    return install


@pytest.mark.parametrize(
    "act",
    [
        "if 1 <= number <= 3: os._exit(1)",
        "if 1 <= number <= 3: os.kill(os.getpid(), signal.SIGKILL)",
        "if number == 1: os.kill(os.getpid(), signal.SIGSTOP)",
    ],
    ids=["ends", "is killed", "is stopped"],
)
def test_a_restart_that_fails_is_tried_again(at_start, requests, act):
    marks = at_start(act)
    with RewardClient(RewardConfig(heartbeat_timeout_s=1)) as client:
        os.kill(client.sidecar_pids[0], signal.SIGKILL)
        (score,) = client.collect(client.submit(requests[1:2]))
        totals = client.stats().totals
    assert score.status is ScoreStatus.OK
    assert totals["restarts"] == len(list(marks.iterdir())) - 1
    assert totals["quarantined"] == 0


def test_a_first_start_that_somebody_else_ends_is_tried_again(at_start, requests):
    at_start("if number == 0: os.kill(os.getpid(), signal.SIGKILL)")
    with RewardClient(RewardConfig()) as client:
        assert client.collect(client.submit(requests[1:2]))[0].status is ScoreStatus.OK


def test_a_first_start_that_fails_by_itself_blames_the_configuration(at_start):
    marks = at_start("os._exit(3)")
    with pytest.raises(UserError, match="exit status 3"):
        RewardClient(RewardConfig()).start()
    assert len(list(marks.iterdir())) == 1


def test_restarts_that_never_succeed_end_in_a_loss_with_the_last_words(
    at_start, requests, monkeypatch
):
    monkeypatch.setattr(supervisor, "RESTARTS_WITHOUT_REPLY", 3)
    at_start("if number: os._exit(print('the disk is gone', file=sys.stderr, flush=True) or 4)")
    with RewardClient(RewardConfig()) as client:
        os.kill(client.sidecar_pids[0], signal.SIGKILL)
        with pytest.raises(SidecarLost, match="the disk is gone"):
            client.collect(client.submit(requests[1:2]))


def test_closing_does_not_wait_for_a_start(at_start):
    at_start("if number: os.kill(os.getpid(), signal.SIGSTOP)")
    client = RewardClient(RewardConfig(heartbeat_timeout_s=3600, start_timeout_s=3600))
    client.start()
    os.kill(client.sidecar_pids[0], signal.SIGKILL)
    client.close()

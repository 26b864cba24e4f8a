"""A sidecar killed, stopped, crashed and out of memory fifty times under three hundred requests."""

import os
import signal
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.config import RewardConfig
from segr1_jax.types import ScoreStatus

ROOT = Path(__file__).parents[2]
ROUNDS, PER_ROUND = 50, 6
LATEST_BLOW_S = 0.03  # about what the requests of a round take

# In every sidecar: the order that lies in the file `order` is carried out once, in whichever
# request comes to it.
HOOKS = """
import os, random
from segr1_jax.reward.transport import prompts_block, protocol

def take(kind):
    order = {order!r}
    if random.random() < 0.4 and os.path.exists(order) and open(order).read() == kind:
        os.rename(order, order + "." + kind + "." + str(os.urandom(6).hex()))
        return True
    return False

set_working, unpack_prompts = protocol.set_working, prompts_block.unpack_prompts

def crash(region, seq):
    set_working(region, seq)
    if seq and take("crash"):
        os.abort()

def exhaust(block, count):
    if take("memory"):
        import torch
        raise torch.OutOfMemoryError("injected")
    return unpack_prompts(block, count)

protocol.set_working, prompts_block.unpack_prompts = crash, exhaust
"""


class Blows:
    """One misfortune per round, at a random moment of it."""

    def __init__(self, client: RewardClient, order: Path, seed: int):
        self._client, self._order, self._rng = client, order, np.random.default_rng(seed)
        self.kinds = list(
            self._rng.permutation(
                ["kill", "stop", "crash", "memory"] * (ROUNDS // 4) + ["kill", "crash"]
            )
        )
        self.sent = Counter()

    def begin(self, kind: str) -> threading.Timer | None:
        if kind in ("crash", "memory"):
            self._order.write_text(kind)
            return None
        blow = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[kind]
        (pid,) = self._client.sidecar_pids
        timer = threading.Timer(self._rng.uniform(0, LATEST_BLOW_S), os.kill, (pid, blow))
        timer.start()
        self.sent[kind] += 1
        return timer

    def carried_out(self) -> Counter:
        """What hit, by kind; those of the sidecar's own are counted by the files they leave."""
        return self.sent + Counter(
            path.name.split(".")[1] for path in self._order.parent.glob("order.*")
        )


@pytest.mark.chaos
def test_every_request_is_answered_once_and_right_through_fifty_misfortunes(
    requests, tmp_path, monkeypatch
):
    rng = np.random.default_rng(7)
    rounds = [
        [requests[k] for k in rng.integers(0, len(requests), PER_ROUND)] for _ in range(ROUNDS)
    ]
    with RewardClient(RewardConfig()) as client:
        expected = [client.collect(client.submit(batch)) for batch in rounds]
    (tmp_path / "sitecustomize.py").write_text(
        HOOKS.replace("{order!r}", repr(str(tmp_path / "order")))
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(tmp_path))))
    with RewardClient(RewardConfig(heartbeat_timeout_s=2.0, cache_mb=1)) as client:
        blows = Blows(client, tmp_path / "order", seed=11)
        answered = 0
        for kind, batch, wanted in zip(blows.kinds, rounds, expected, strict=True):
            timer = blows.begin(kind)
            scores = client.collect(client.submit(batch))
            if timer:
                timer.join()
            while (tmp_path / "order").exists():  # nobody drew it: ask again until somebody does
                answered += len(client.collect(client.submit(batch)))
            _assert_same(scores, wanted)
            answered += len(scores)
        _assert_same(client.collect(client.submit(rounds[0])), expected[0])
        totals = client.stats().totals
    hit = blows.carried_out()
    assert sum(hit.values()) == ROUNDS
    assert totals["scores"] == answered + PER_ROUND
    assert totals["quarantined"] == totals["queue_depth"] == 0
    assert totals["retries"] >= hit["memory"]
    assert (
        totals["restarts"] >= ROUNDS // 2
    )  # not one each: a stop that comes after the last answer may be followed by another blow


def _assert_same(scores, wanted):
    for score, want in zip(scores, wanted, strict=True):
        assert score.status is ScoreStatus.OK
        assert (score.iou, score.s_measure) == (want.iou, want.s_measure)
        if want.mask is not None:
            np.testing.assert_array_equal(score.mask, want.mask)

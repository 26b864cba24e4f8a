"""Whole GRPO runs of a tiny policy in seconds.

Rewards come from a script by position in the data order, not from masks.
"""

import functools
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from segr1_jax.config.loading import load_config
from segr1_jax.config.schema import RunConfig
from segr1_jax.reward.client import RewardClient, Stats
from segr1_jax.reward.judging import Judged
from segr1_jax.training import loop
from segr1_jax.training.loop import run_grpo
from segr1_jax.training.scoring import GroupScorer
from segr1_jax.types import ParseStatus, Reward, Score, ScoreStatus

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart_grpo.yaml"
GROUP, BATCH = 2, 8
SMALL = [
    *(
        "batch=8",
        "micro_batches=1",
        "eval_batch=8",
        "eval_every=0",
        "save_every=1",
        "keep=10",
        "optimizer.warmup_steps=0",
    ),
    *(
        "data.size=84",
        "data.count=100",
        "eval_data.size=84",
        "eval_data.count=8",
        "prompt.frame=84",
        "prompt.max_tokens=48",
    ),
    *(f"rollout.group={GROUP}", "rollout.max_tokens=4", "rollout.temperature=1.0"),
]


class FakeClient(RewardClient):
    """A reward client without sidecar: every mask is half right."""

    def __init__(self, config, incidents):
        self._requests, self._submitted = {}, 0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def encode(self, image):
        pass

    def room(self):
        return 1000

    def submit(self, requests):
        self._submitted += 1
        self._requests[self._submitted] = requests
        return self._submitted

    def collect(self, number):
        return [
            Score(ScoreStatus.OK, 0.5, 0.5, request.mask) for request in self._requests.pop(number)
        ]

    def stats(self):
        return Stats(Counter(), time.perf_counter())


class ScriptedScorer(GroupScorer):
    """Rewards by position in the data order; `reward` gives those of a group."""

    reward: Callable[[int], tuple[float, float]]

    def send(self, answers):
        return answers

    def collect(self, sent):
        totals = [type(self).reward(answer.sample.position)[answer.number] for answer in sent]
        return [
            Judged(Reward(total, 1.0, 0.0, 0.0, ParseStatus.OK), None, None) for total in totals
        ]


def scripted(
    reward: Callable[[int], tuple[float, float]], base: type[ScriptedScorer] = ScriptedScorer
) -> type[ScriptedScorer]:
    """A scorer with this script."""
    return type("Scripted", (base,), {"reward": staticmethod(reward)})


def train(
    monkeypatch,
    policy: Path,
    run: Path,
    reward: Callable[[int], tuple[float, float]],
    *overrides: str,
    client: type[FakeClient] = FakeClient,
    scorer: type[ScriptedScorer] = ScriptedScorer,
) -> None:
    """Run GRPO without a sidecar on one device.

    `reward` gives the rewards of the group at a position.
    """
    use_one_device(monkeypatch)
    config = small_config(policy, run, *overrides)
    run_grpo(config, connect=client, make_scorer=scripted(reward, scorer))


def small_config(policy: Path, run: Path, *overrides: str) -> RunConfig:
    return load_config(CONFIG, [*SMALL, f"policy.path={policy}", f"run_dir={run}", *overrides])


def use_one_device(monkeypatch) -> None:
    """A mesh of one device: eight take much longer to compile for."""
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: one)


def without_sidecar(monkeypatch, reward: Callable[[int], tuple[float, float]], caller=loop) -> None:
    """Let runs that `caller` starts, by default a command, take the script too."""
    use_one_device(monkeypatch)
    start = functools.partial(run_grpo, connect=FakeClient, make_scorer=scripted(reward))
    monkeypatch.setattr(caller, "run_grpo", start)


def metrics(run: Path) -> list[dict]:
    """Lines of the steps, without what measures time."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if not k.startswith(("time/", "sidecar/"))}
        for line in lines
        if "loss" in line
    ]


def checkpoint(run: Path, step: int) -> dict:
    """Items params and train of one checkpoint."""
    with ocp.CheckpointManager(run / "checkpoints") as manager:
        names = {name: ocp.args.StandardRestore() for name in ("params", "train")}
        return dict(manager.restore(step, args=ocp.args.Composite(**names)))


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)

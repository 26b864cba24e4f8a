"""A training run whose sidecar is killed and stopped thirty times ends like one left alone."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from training_runs import (
    DEADLINE_S,
    assert_same_end,
    command,
    finish,
    sidecars_of,
    start,
)

from segr1_jax.hf.tiny_policy import make_tiny_policy

BLOWS = 30
SEEDS = (0,)
LONGEST_START_S = 2.0  # every second blow falls into this
LONGEST_LIFE_S = 3.0

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with a policy that answers in the format, and a run of it left alone."""
    folder = tmp_path_factory.mktemp("kills")
    make_tiny_policy(folder / "tiny", seed=0)
    short = ("steps=60", "eval_every=0", "save_every=60", "policy.path=tiny")
    finish(command("sft", "quickstart_sft.yaml", "run_dir=sft", *short), folder)
    finish(words("whole"), folder)
    return folder


def words(run: str) -> list[str]:
    rest = ("steps=24", "eval_every=12", "save_every=12", "optimizer.warmup_steps=2")
    quick = "reward.heartbeat_timeout_s=2"
    return command(
        "train", "quickstart_grpo.yaml", f"run_dir={run}", "policy.path=sft", quick, *rest
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_thirty_kills_change_no_figure(folder, seed):
    run = folder / f"killed_{seed}"
    process = start(words(run.name), folder)
    assert strike(process, random.Random(seed)) == BLOWS, "the run ended first"
    assert process.wait(DEADLINE_S) == 0
    assert restarts(run) >= BLOWS
    assert_same_end(run, folder / "whole")


def strike(process: subprocess.Popen, rng: random.Random) -> int:
    """Kill or stop each new sidecar after a random time; the number of blows until the run ends."""
    struck: set[str] = set()
    while len(struck) < BLOWS and process.poll() is None:
        for pid in set(sidecars_of(process.pid)) - struck:
            time.sleep(rng.uniform(0, LONGEST_START_S if len(struck) % 2 else LONGEST_LIFE_S))
            os.kill(int(pid), signal.SIGSTOP if rng.random() < 0.1 else signal.SIGKILL)
            struck.add(pid)
        time.sleep(0.01)
    return len(struck)


def restarts(run: Path) -> int:
    """Of the whole run, as its last step's line counts them."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return max(int(line.get("sidecar/restarts", 0)) for line in lines)

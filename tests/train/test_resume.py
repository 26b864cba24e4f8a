"""A run killed with SIGKILL and started again ends like one that was left alone: bitwise, with nothing left behind.

Real runs on one device: cold start long enough for answers that parse, then GRPO with the sidecar.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from segr1_jax.hf.tiny import make_tiny_policy

ROOT = Path(__file__).parents[2]
DEADLINE_S = 900
SMALL = ["eval_data.count=16", "eval_batch=16", "batch=8", "save_every=2"]


def command(stage: str, config: str, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "segr1_jax.cli", stage, str(ROOT / "configs" / config), *SMALL, *overrides]


def start(words: list[str], cwd: Path) -> subprocess.Popen:
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(cwd / "xla")}
    return subprocess.Popen(words, cwd=cwd, env=environment)


def finish(words: list[str], cwd: Path) -> None:
    assert start(words, cwd).wait(DEADLINE_S) == 0


def kill_after_step(words: list[str], cwd: Path, run: Path, step: int) -> int:
    """SIGKILL the run once `step` is in its metrics; returns its process id."""
    process, deadline = start(words, cwd), time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None and last_step(run) < step:
        time.sleep(0.05)
    assert process.poll() is None, "the run ended before it could be killed"
    assert sidecars_of(process.pid), "the check below would see nothing"
    process.send_signal(signal.SIGKILL)
    process.wait()
    return process.pid


def last_step(run: Path) -> int:
    file = run / "metrics.jsonl"
    lines = file.read_text().rpartition("\n")[0].splitlines() if file.exists() else []
    return max((json.loads(line)["step"] for line in lines), default=0)


def timeless_metrics(run: Path) -> list[dict]:
    """Metric lines without what measures time or this process's life."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(("time/", "sidecar/"))} for line in lines]


def final_params(run: Path) -> dict[str, np.ndarray]:
    with ocp.CheckpointManager(run / "checkpoints") as manager:
        return manager.restore(manager.latest_step(), args=ocp.args.Composite(params=ocp.args.StandardRestore()))["params"]


def sidecars_of(trainer: int) -> list[str]:
    """Process ids of the sidecars that this trainer started."""
    mark = f'"parent_pid": {trainer},'.encode()
    return [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit() and mark in command_line(entry)]


def command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return b""


@pytest.fixture(scope="module")
def cold_start(tmp_path_factory):
    """A working folder with a policy that answers in the format."""
    folder = tmp_path_factory.mktemp("resume")
    make_tiny_policy(folder / "tiny", seed=0)
    finish(command("sft", "quickstart_sft.yaml", "run_dir=sft", "policy.path=tiny", "steps=120", "eval_every=0", "save_every=60"), folder)
    return folder


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("stage", "config", "policy"), [("sft", "quickstart_sft.yaml", "tiny"), ("train", "quickstart_grpo.yaml", "sft")], ids=["sft", "grpo"]
)
def test_killed_and_resumed_equals_uninterrupted(stage, config, policy, cold_start):
    def words(run: str) -> list[str]:
        return command(stage, config, f"run_dir={run}", f"policy.path={policy}", "steps=6", "eval_every=3", "optimizer.warmup_steps=2")

    whole, killed = cold_start / f"{stage}_whole", cold_start / f"{stage}_killed"
    shared_memory = set(os.listdir("/dev/shm"))
    finish(words(whole.name), cold_start)
    trainer = kill_after_step(words(killed.name), cold_start, killed, step=3)
    time.sleep(5)
    assert not sidecars_of(trainer), "a sidecar outlived its trainer"
    assert set(os.listdir("/dev/shm")) == shared_memory
    finish(words(killed.name), cold_start)

    assert timeless_metrics(killed) == timeless_metrics(whole)
    assert (killed / "report.md").read_text().replace("_killed", "_whole") == (whole / "report.md").read_text()
    ours, theirs = final_params(killed), final_params(whole)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)

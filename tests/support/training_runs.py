"""Real runs of the command line as processes, to be killed, stopped and resumed.

The files that they leave are compared.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

ROOT = Path(__file__).parents[2]
DEADLINE_S = 900
SMALL = ["eval_data.count=16", "eval_batch=16", "batch=8", "save_every=2"]


def command(stage: str, config: str, *overrides: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "segr1_jax.cli",
        stage,
        str(ROOT / "configs" / config),
        *SMALL,
        *overrides,
    ]


def start(words: list[str], cwd: Path, *, devices: int = 1, **environment: str) -> subprocess.Popen:
    variables = {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(words, cwd=cwd, env=os.environ | variables | environment)


def finish(words: list[str], cwd: Path, *, devices: int = 1) -> None:
    assert start(words, cwd, devices=devices).wait(DEADLINE_S) == 0


def wait_for_step(process: subprocess.Popen, run: Path, step: int) -> None:
    """Return once `step` is in the metrics of the run that `process` makes."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None and last_step(run) < step:
        time.sleep(0.02)
    assert process.poll() is None, "the run ended before it could be disturbed"


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def last_step(run: Path) -> int:
    file = run / "metrics.jsonl"
    lines = file.read_text().rpartition("\n")[0].splitlines() if file.exists() else []
    return max((json.loads(line)["step"] for line in lines), default=0)


def timeless_metrics(run: Path) -> list[dict[str, Any]]:
    """Metric lines without what measures time or this process's life."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if not k.startswith(("time/", "sidecar/"))} for line in lines
    ]


def final_checkpoint(run: Path) -> dict[str, np.ndarray]:
    """Weights, optimizer state, step and position of the newest checkpoint, by path."""
    items = ocp.args.Composite(
        params=ocp.args.StandardRestore(),
        train=ocp.args.StandardRestore(),
        position=ocp.args.JsonRestore(),
    )
    with ocp.CheckpointManager(run / "checkpoints") as manager:
        found = manager.restore(manager.latest_step(), args=items)
    return {
        name: np.asarray(leaf)
        for name, leaf in ocp.tree.to_flat_dict(dict(found.items()), sep="/").items()
        if leaf is not None
    }


def assert_same_end(ours: Path, whole: Path) -> None:
    """Metrics, report, weights, moments, counters and position, bit for bit."""
    assert timeless_metrics(ours) == timeless_metrics(whole)
    assert (ours / "report.md").read_text().replace(ours.name, whole.name) == (
        whole / "report.md"
    ).read_text()
    found, expected = final_checkpoint(ours), final_checkpoint(whole)
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def sidecars_of(trainer: int) -> list[str]:
    """Process ids of the sidecars that this trainer started."""
    mark = f'"parent_pid": {trainer},'.encode()
    return [
        entry.name
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and mark in _command_line(entry)
    ]


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return b""

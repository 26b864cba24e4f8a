"""Runs that log without training, and what they write, in order."""

from pathlib import Path

import numpy as np

from segr1_jax.config.log import LogConfig
from segr1_jax.config.schema import RunConfig
from segr1_jax.runtime.metrics_log import MetricsWriter
from segr1_jax.runtime.run_directory import RunDir
from segr1_jax.runtime.trackers.tracker import Picture

FIGURES = {"reward": 0.5, "time/step_s": 1.0, "parse/ok": 0.25, "sidecar/restarts": 0}
TAGS = {"train/reward", "time/step_s", "parse/ok", "sidecar/restarts"}
SECRET = "gs://reader:hunter2@bucket/run"


def config_of(folder: Path, *names: str) -> RunConfig:
    log = LogConfig(to=["jsonl", *names])
    return RunConfig(run_dir=str(folder / "run"), log=log, checkpoint_dir=SECRET)


def directory(config: RunConfig) -> RunDir:
    run = RunDir(Path(config.run_dir))
    run.path.mkdir(exist_ok=True)
    return run


def picture(step: int) -> Picture:
    pixels = np.full((4, 6, 3), 10 * step, np.uint8)
    return Picture("eval/sample_000003", pixels, f"cat.png: ok\n<b>answer</b> of {step}")


def train(config: RunConfig, first: int, last: int) -> None:
    """Log steps after the restored `first`, with an evaluation at each even one."""
    with MetricsWriter(directory(config), config, first) as writer:
        for step in range(first + 1, last + 1):
            writer.write(step, FIGURES | {"reward": step / 10})
            if step % 2 == 0:
                writer.write(step, {"eval/iou": step / 100}, [picture(step)])


# The order of what `train` writes from step 1 to 6.
SIX_STEPS = [(step, kind) for step in range(1, 7) for kind in ("train", "eval")[: 2 - step % 2]]

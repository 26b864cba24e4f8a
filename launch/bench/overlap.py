"""Measure how much time the mask reward adds to a training step.

    .venv/bin/python launch/bench/overlap.py configs/quickstart_grpo.yaml \\
        policy.path=runs/quickstart/sft --steps 30

Two GRPO runs follow each other in one process. The first uses the sidecar and records every score;
the second replays the scores, so both make the same updates (checked). The script prints the median
seconds per step of both, their ratio, and where the time of the first was spent. Nothing else
should run on the machine.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segr1_jax.config.loading import load_config
from segr1_jax.config.schema import RunConfig
from segr1_jax.reward.client import RewardClient, Stats
from segr1_jax.reward.transport.gpus import placed_here
from segr1_jax.runtime.hub_files import with_local_files
from segr1_jax.runtime.metrics_log import read_metrics
from segr1_jax.runtime.processes import prepare_runtime
from segr1_jax.runtime.run_directory import RunDir
from segr1_jax.training.loop import run_grpo
from segr1_jax.types import Score, ScoreRequest, ScoreStatus

# Steps that are left out: they compile and touch memory for the first time.
WARM_UP = 3
SHOWN = (
    "wait_s",
    "busy_s",
    "trainer_busy_s",
    "encodes",
    "encode_ms",
    "scores",
    "decode_ms",
    "cache_hits",
)


class Recording(RewardClient):
    """A real client that keeps every score it returns."""

    kept: list[list[Score]]

    def collect(self, number: int) -> list[Score]:
        scores = super().collect(number)
        self.kept.append(scores)
        return scores


class Replay:
    """A client that returns the scores of a file in their order, without a sidecar."""

    def __init__(self, path: Path):
        with np.load(path) as file:
            self._sizes = iter(file["sizes"].tolist())
            self._numbers = iter(file["numbers"])
            self._shapes = iter(file["shapes"].tolist())
            self._masks = file["masks"]
        self._offset = 0

    def __enter__(self) -> "Replay":
        return self

    def __exit__(self, *exception) -> None:
        pass

    def encode(self, image: np.ndarray) -> None:
        pass

    def room(self) -> int:
        return sys.maxsize

    def submit(self, requests: Sequence[ScoreRequest]) -> int:
        return len(requests)

    def collect(self, count: int) -> list[Score]:
        recorded = next(self._sizes)
        if recorded != count:
            raise RuntimeError(
                f"the runs differ: the replayed one asks for {count} scores where the recorded one "
                f"got {recorded}"
            )
        return [self._score() for _ in range(count)]

    def stats(self) -> Stats:
        return Stats(Counter(), time.perf_counter())

    def _score(self) -> Score:
        (iou, s_measure), (height, width) = next(self._numbers).tolist(), next(self._shapes)
        if not height:
            return Score(ScoreStatus.OK, iou, s_measure)
        packed = self._masks[self._offset : self._offset + (height * width + 7) // 8]
        self._offset += packed.size
        mask = np.unpackbits(packed, count=height * width).reshape(height, width).astype(bool)
        return Score(ScoreStatus.OK, iou=iou, s_measure=s_measure, mask=mask)


def save(kept: list[list[Score]], path: Path) -> None:
    """Write recorded scores for Replay."""
    scores = [score for scores in kept for score in scores]
    masks = [np.packbits(score.mask) for score in scores if score.mask is not None]
    np.savez(
        path,
        sizes=[len(scores) for scores in kept],
        numbers=np.array([(score.iou, score.s_measure) for score in scores]),
        shapes=np.array([(0, 0) if score.mask is None else score.mask.shape for score in scores]),
        masks=np.concatenate([np.zeros(0, np.uint8), *masks]),
    )


def train(config: RunConfig, run_dir: Path, client) -> list[dict]:
    """Run GRPO with `client` in place of the real one.

    Returns:
        The metric lines of its steps after the warm-up.
    """
    run_grpo(dataclasses.replace(config, run_dir=str(run_dir)), connect=lambda *_: client)
    return [line for line in read_metrics(RunDir(run_dir)) if "reward" in line][WARM_UP:]


def step_seconds(lines: list[dict]) -> float:
    return statistics.median(
        line["sidecar/trainer_busy_s"] + line["sidecar/wait_s"] for line in lines
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_intermixed_args()
    steps = [f"steps={options.steps}", "eval_every=0", f"save_every={options.steps}"]
    config = load_config(options.config, [*steps, *options.overrides])
    prepare_runtime(
        deterministic=config.deterministic, memory_share=placed_here(config.reward).share_of_jax
    )
    config = with_local_files(config)
    with tempfile.TemporaryDirectory() as folder:
        live_client = Recording(config.reward)
        live_client.kept = []
        live = train(config, Path(folder) / "live", live_client)
        save(live_client.kept, scores := Path(folder) / "scores.npz")
        replayed = train(config, Path(folder) / "replayed", Replay(scores))
    if [line["loss"] for line in live] != [line["loss"] for line in replayed]:
        raise SystemExit("the two runs have different losses, so their times do not compare")
    report(live, replayed)


def report(live: list[dict], replayed: list[dict]) -> None:
    """Print the comparison."""
    seconds, without = step_seconds(live), step_seconds(replayed)
    print(
        f"\nmedian of {len(live)} steps: {seconds:.3f} s with the sidecar, "
        f"{without:.3f} s with replayed rewards"
    )
    print(f"ratio {seconds / without:.3f}; per step of the first:")
    for name in SHOWN:
        print(f"  {name:<16} {statistics.mean(line[f'sidecar/{name}'] for line in live):.3f}")


if __name__ == "__main__":
    main()

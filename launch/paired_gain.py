"""Measure the gain of a run's last three evaluations over its first, paired by held-out sample.

    .venv/bin/python launch/paired_gain.py runs/NAME [--last 3]

The evaluations use the same samples, so the standard error is that of the differences: samples
differ far more from each other than from themselves at another step. The standard error of the
first evaluation alone is printed beside it.
"""

import argparse
import json
from pathlib import Path

import numpy as np

MIN_EVALUATIONS = 6


def iou_by_step(run: Path) -> dict[int, dict[int, float]]:
    """Return the IoU of each example id at each step."""
    steps: dict[int, dict[int, float]] = {}
    for file in sorted((run / "eval").glob("step_*.rows_*.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        steps.setdefault(int(file.name[5:11]), {}).update(
            {row["example_id"]: row["iou"] for row in rows}
        )
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "--last", type=int, default=3, help="evaluations at the end that are averaged"
    )
    options = parser.parse_args()
    steps = iou_by_step(options.run)
    if len(steps) < MIN_EVALUATIONS:
        raise SystemExit(
            f"{options.run} has {len(steps)} evaluations, fewer than {MIN_EVALUATIONS}: "
            "train with a smaller eval_every"
        )
    common = sorted(set.intersection(*map(set, steps.values())))
    iou_EN = np.array([[steps[step][example] for example in common] for step in sorted(steps)])
    gain_N = iou_EN[-options.last :].mean(0) - iou_EN[0]
    root = np.sqrt(len(common))
    print(
        "IoU by step: "
        + "  ".join(
            f"{step}: {row.mean():.3f}" for step, row in zip(sorted(steps), iou_EN, strict=True)
        )
    )
    first, last = iou_EN[0], iou_EN[-options.last :]
    print(
        f"first {first.mean():.3f} (standard error {first.std(ddof=1) / root:.3f}), "
        f"last {options.last} {last.mean():.3f}"
    )
    error = gain_N.std(ddof=1) / root
    print(
        f"gain {gain_N.mean():+.4f}, standard error of the differences {error:.4f}: "
        f"{gain_N.mean() / error:.1f} standard errors"
    )


if __name__ == "__main__":
    main()

"""Did training help on the held-out samples? The mean of a run's last three evaluations against its first, sample by sample.

    .venv/bin/python launch/paired_gain.py runs/NAME [--last 3]

The evaluations are of the same samples, so the standard error is that of the differences (samples differ far more from each other than
from themselves at another step); the standard error of the first evaluation alone stands beside it.
"""

import argparse
import json
from pathlib import Path

import numpy as np

FEWEST = 6  # evaluations


def iou_by_step(run: Path) -> dict[int, dict[int, float]]:
    """Step -> example id -> IoU."""
    found: dict[int, dict[int, float]] = {}
    for file in sorted((run / "eval").glob("step_*.rows_*.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        found.setdefault(int(file.name[5:11]), {}).update(
            {row["example_id"]: row["iou"] for row in rows}
        )
    return found


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
    if len(steps) < FEWEST:
        raise SystemExit(
            f"{options.run} has {len(steps)} evaluations, fewer than {FEWEST}: train with a smaller eval_every"
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
        f"first {first.mean():.3f} (standard error {first.std(ddof=1) / root:.3f}), last {options.last} {last.mean():.3f}"
    )
    error = gain_N.std(ddof=1) / root
    print(
        f"gain {gain_N.mean():+.4f}, standard error of the differences {error:.4f}: {gain_N.mean() / error:.1f} of them"
    )


if __name__ == "__main__":
    main()

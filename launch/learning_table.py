"""Run the learning benchmark: SFT, GRPO from it, and SFT continued on the images of GRPO.

    .venv/bin/python launch/learning_table.py [key=value for all runs, such as steps=20] \\
        --seeds 0 1 2

The script makes one table per seed. All files are in runs/learning, and running the script again
resumes it. The configurations are the quickstart's, with another seed for weights, data order and
sampling. All runs have the same 200 held-out images.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from segr1_jax.common.files import write_atomically
from segr1_jax.config.loading import load_config
from segr1_jax.metrics.tables import markdown_table

SFT, GRPO = "configs/quickstart_sft.yaml", "configs/quickstart_grpo.yaml"
COLUMNS = {"format": "format", "iou": "IoU", "s_measure": "S-measure"}


def segr1(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "segr1_jax.cli", *words], check=True)


def figures(run: Path, name: str) -> dict[str, float]:
    return json.loads((run / "eval" / f"{name}.json").read_text())


def curve(run: Path) -> str:
    """Return the held-out IoU by step in one line."""
    points = sorted(run.glob("eval/step_??????.json"))
    return "  ".join(
        f"{int(point.stem[5:])}: {json.loads(point.read_text())['iou']:.3f}" for point in points
    )


def run_seed(out: Path, seed: int, overrides: list[str]) -> dict[str, dict[str, float]]:
    """Train the three policies of one seed, and return the rows of its table."""
    grpo = load_config(GRPO, overrides)
    if not (out / "tiny").exists():
        segr1("tiny", str(out / "tiny"), "--seed", str(seed))
    common = [f"seed={seed}", *overrides]
    segr1("sft", SFT, f"run_dir={out}/sft", f"policy.path={out}/tiny", *common)
    segr1("train", GRPO, f"run_dir={out}/grpo", f"policy.path={out}/sft", *common)
    same_images = [f"data.{field}={getattr(grpo.data, field)}" for field in ("count", "seed")]
    length = [
        f"steps={grpo.steps}",
        f"batch={grpo.batch}",
        f"eval_every={grpo.eval_every}",
        f"save_every={grpo.save_every}",
    ]
    segr1(
        "sft",
        SFT,
        f"run_dir={out}/sft_continued",
        f"policy.path={out}/sft",
        *common,
        *same_images,
        *length,
    )
    return {
        "best constant answer": figures(out / "grpo", "constant"),
        "SFT": figures(out / "grpo", "step_000000"),
        "SFT continued": figures(out / "sft_continued", f"step_{grpo.steps:06d}"),
        "GRPO": figures(out / "grpo", f"step_{grpo.steps:06d}"),
        "GRPO, answers given to another image": figures(out / "grpo", "shuffled"),
        "prompt from the ground truth": figures(out / "grpo", "truth"),
    }


def verdict(rows: dict[str, dict[str, float]]) -> str:
    """Return whether the three margins required of the quickstart hold, and their values."""
    iou = {name: row["iou"] for name, row in rows.items()}
    over_sft, over_constant = iou["GRPO"] - iou["SFT"], iou["GRPO"] - iou["best constant answer"]
    lost = iou["GRPO"] - iou["GRPO, answers given to another image"]
    held = over_sft >= 0.05 and over_constant >= 0.15 and lost >= over_constant / 2
    over_continued = iou["GRPO"] - iou["SFT continued"]
    margins = (
        f"over SFT {over_sft:+.3f} (>= .05), over constant {over_constant:+.3f} (>= .15), "
        f"shuffling costs {lost:.3f} (>= half of that)"
    )
    return (
        f"{'holds' if held else 'DOES NOT HOLD'}: {margins}; "
        f"over SFT continued {over_continued:+.3f} (goal: above 0)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="key=value")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    options = parser.parse_intermixed_args()
    parts = []
    for seed in options.seeds:
        out = options.out / f"seed_{seed}"
        rows = run_seed(out, seed, options.overrides)
        curves = "\n".join(
            f"- {name}: {curve(out / name)}" for name in ("sft", "grpo", "sft_continued")
        )
        parts.append(
            f"## Seed {seed}\n\n{markdown_table(rows, COLUMNS)}\n\n{verdict(rows)}\n\n"
            f"Held-out IoU by step:\n{curves}\n"
        )
        write_atomically(options.out / "learning.md", "\n".join(parts))
    print("\n".join(parts))


if __name__ == "__main__":
    main()

"""Does everything work on this machine with these weights? What to run first, before a run that is paid for.

    .venv/bin/python launch/first_day.py configs/ours/rl_cod_3b_one_gpu.yaml [key=value ...] \\
        [--photos a.jpg b.jpg c.jpg d.jpg] [--out runs/first_day]

It needs weights alone, no data set: without --photos it takes four synthetic pictures, and it trains on more of them. Each part is
a process of its own, so one that fails is told of and the next one runs: the policy against transformers, masks against
SAM2ImagePredictor, a training step, a second one from the checkpoint of the first, and the memory beside that of `segr1 plan`.
OUT/first_day.md is a page to paste into an issue. Exit status 1 where a part failed.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from segr1_jax.data.config import DataConfig
from segr1_jax.data.images import open_image
from segr1_jax.data.synthetic import generate
from segr1_jax.doctor import examine, report
from segr1_jax.errors import UserError
from segr1_jax.reward.gpus import placed_here
from segr1_jax.train.config import RunConfig
from segr1_jax.train.load_config import load_config
from segr1_jax.types import Example

PARTS = ("policy", "masks", "first step", "second step")
PHOTOS = 4
# Steps, evaluations and data are replaced: two steps on pictures that every machine can draw.
SHORT = (
    *("data.kind=synthetic", "data.part=all", "data.hold_out=0", "data.count=400", "data.seed=0"),
    *("eval_data.kind=synthetic", "eval_data.part=all", "eval_data.hold_out=0"),
    *("eval_data.seed=1", "eval_first=false", "eval_every=0", "save_every=1", "keep=2"),
    *("optimizer.schedule=constant", "optimizer.warmup_steps=0", "keep_best=0"),
)


def _examples(photos: list[Path], side: int) -> list[Example]:
    if not photos:
        config = DataConfig(size=side, count=PHOTOS, seed=2)
        return [generate(config, index) for index in range(PHOTOS)]
    images = [open_image(path) for path in photos]
    return [
        Example(index, path.stem, image, np.ones(image.shape[:2], bool))
        for index, (path, image) in enumerate(zip(photos, images, strict=True))
    ]


def _short(path: Path, overrides: list[str]) -> RunConfig:
    """The configuration of the two steps: the user's, for a while and on synthetic pictures of its frame."""
    chosen = load_config(path, overrides)
    side = chosen.prompt.frame
    sizes = [f"data.size={side}", f"eval_data.size={side}", f"eval_data.count={chosen.eval_batch}"]
    return load_config(path, [*overrides, *SHORT, *sizes])


def _run_part(options: argparse.Namespace) -> int:
    """One part, in this process; its line goes to OUT."""
    # Only a part may start JAX: it takes the GPU's memory.
    import first_day_parts

    from segr1_jax.train.runtime import prepare_runtime

    config = _short(options.config, options.overrides)
    share = placed_here(config.reward).share_of_jax
    prepare_runtime(deterministic=config.deterministic, memory_share=share)
    examples = _examples(options.photos, config.prompt.frame)
    expected, measured, passed = first_day_parts.PARTS[options.part](config, examples, options.out)
    line = {"expected": expected, "measured": measured, "passed": passed}
    (options.out / f"{options.part}.json").write_text(json.dumps(line))
    return 0


def _child(part: str, options: argparse.Namespace) -> dict:
    """What one part found; a part that ends without a word has failed with its last line."""
    line = options.out / f"{part}.json"
    line.unlink(missing_ok=True)
    log = options.out / f"{part}.log"
    command = [sys.executable, __file__, "--part", part, *sys.argv[1:]]
    with log.open("w") as file:
        subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False, env=os.environ)
    if line.is_file():
        return json.loads(line.read_text())
    last = (log.read_text().strip().splitlines() or ["nothing was printed"])[-1][:200]
    return {"expected": "to end", "measured": f"{last} (whole output: {log})", "passed": False}


def _page(options: argparse.Namespace, lines: dict[str, dict]) -> str:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        hardware = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        hardware = "no NVIDIA GPU"
    python = load_config(options.config, options.overrides).reward.python
    rows = [
        f"| {part} | {line['expected']} | {line['measured']} | {'ok' if line['passed'] else 'FAILED'} |"
        for part, line in lines.items()
    ]
    return "\n".join(
        [
            f"# First day, {datetime.date.today()}",
            "",
            f"{hardware}; `{' '.join([str(options.config), *options.overrides])}`",
            "",
            "| part | expected | measured | |",
            "|---|---|---|---|",
            *rows,
            "",
            "```",
            report(examine(python)),
            "```",
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--photos", type=Path, nargs="+", default=[])
    parser.add_argument("--out", type=Path, default=Path("runs/first_day"))
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.part:
        return _run_part(options)
    _short(options.config, options.overrides)
    if (options.out / "run").exists():
        raise UserError(
            "--out",
            expected="a folder without an earlier run",
            got=str(options.out / "run"),
            remedy="remove it, or choose another",
        )
    lines = {}
    for part in PARTS:
        print(f"first day: {part} ...", end=" ", flush=True)
        lines[part] = _child(part, options)
        print("ok" if lines[part]["passed"] else f"FAILED: {lines[part]['measured']}", flush=True)
    page = options.out / "first_day.md"
    page.write_text(_page(options, lines))
    print(f"wrote {page}")
    return int(not all(line["passed"] for line in lines.values()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"first_day: {error}")

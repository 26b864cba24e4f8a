"""Check that a machine with real weights and a GPU computes correct results; run this first.

    .venv/bin/python launch/first_day.py configs/ours/rl_cod_3b_one_gpu.yaml [--synthetic] \\
        policy.path=DIR|ORG/NAME reward.sam2=ORG/NAME [--photos a.jpg b.jpg]

The parts, in this order:
  environment  versions and devices
  parity       our bfloat16 logprobs, compared with those of transformers
  masks        masks of the sidecar, compared with SAM2ImagePredictor
  training     two GRPO steps, and their peak device memory, compared with the plan
  restored     the checkpoint of the steps, restored and compared

Each part is a separate process, so it frees the device and writes its result before the next one
starts; a part that crashes is a line of the result. Code that needs torch runs under reward.python,
with transformers (on the CPU) and sam2.

OUT/first_day.md is one page to paste into an issue, and OUT/PART.log is the output of a part. The
exit status is 1 if a part failed. --synthetic needs no data set; it trains on generated pictures.
"""

import argparse
import datetime
import importlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from first_day_parts.ending import ending
from first_day_parts.request import FAILED, Request, Row

from segr1_jax.common.files import write_atomically
from segr1_jax.config.checks import check, require_fixed_frame
from segr1_jax.config.loading import load_config
from segr1_jax.errors import UserError
from segr1_jax.runtime.hub_files import with_local_files

PARTS = ("environment", "parity", "masks", "training", "restored")
USER_FAULT = 2
# Few pictures, because the final report scores an answer for each of the first 400.
SYNTHETIC = [
    *("data.kind=synthetic", "data.part=all", "data.seed=0", "data.count=64"),
    *("eval_data.kind=synthetic", "eval_data.part=all", "eval_data.seed=1"),
]


def main() -> int:
    options = _options()
    try:
        config = load_config(options.config, options.overrides)
        if options.part:
            config = with_local_files(config)
            request = Request(
                config, options.config, options.overrides, options.photos, options.run
            )
            _write_rows(options.out, options.part, request)
            return 0
        check(config)
        require_fixed_frame(config)
        # The parts find everything in the cache.
        with_local_files(config)
    except UserError as error:
        print(f"first_day: {error}", file=sys.stderr)
        return USER_FAULT
    return _run_all(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="a configuration of the stage grpo")
    parser.add_argument("overrides", nargs="*", help="key=value")
    parser.add_argument(
        "--photos", type=Path, nargs="+", default=[], help="default: four of eval_data"
    )
    parser.add_argument(
        "--synthetic", action="store_true", help="generated pictures instead of a data set"
    )
    parser.add_argument("--out", type=Path, default=Path("first_day"))
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args()
    options.overrides += SYNTHETIC if options.synthetic else []
    return options


def _run_all(options: argparse.Namespace) -> int:
    """Run every part, and rewrite the page after each."""
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    # Checkpoints are stored beside the page, on the user's choice of disk, and deleted at the end.
    with tempfile.TemporaryDirectory(dir=options.out, prefix="run.") as folder:
        for part in PARTS:
            began = time.monotonic()
            rows += _run_part(part, options, Path(folder) / "grpo")
            write_atomically(options.out / "first_day.md", _page(options, rows))
            print(f"first_day: {part}, {time.monotonic() - began:.0f} s", file=sys.stderr)
    print(_page(options, rows))
    return int(any(row.verdict == FAILED for row in rows))


def _run_part(part: str, options: argparse.Namespace, run: Path) -> list[Row]:
    result = options.out / f"{part}.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, __file__, str(options.config), *options.overrides]
    command += ["--part", part, "--out", str(options.out), "--run", str(run)]
    if options.photos:
        command += ["--photos", *map(str, options.photos)]
    log = options.out / f"{part}.log"
    with log.open("w") as file:
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
    if status:
        reason = f"{ending(status, log.read_text(errors='replace'))} (full log: {log})"
        return [Row(part, "to finish", reason, FAILED)]
    return [Row(**row) for row in json.loads(result.read_text())]


def _write_rows(out: Path, part: str, request: Request) -> None:
    rows = importlib.import_module(f"first_day_parts.{part}").measure(request)
    write_atomically(out / f"{part}.json", json.dumps([row._asdict() for row in rows], indent=1))


def _page(options: argparse.Namespace, rows: list[Row]) -> str:
    """Return the result so far as markdown."""
    hardware = next((row.measured for row in rows if row.part == "device"), "not known")
    lines = [
        "# First day of segr1_jax",
        "",
        f"- date: {datetime.date.today().isoformat()}",
        f"- hardware: {hardware}",
        f"- configuration: `{' '.join([str(options.config), *options.overrides])}`",
        "",
        "| part | expected | measured | verdict |",
        "|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())

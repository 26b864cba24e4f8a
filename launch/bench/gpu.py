"""Measure on one GPU what `segr1 plan` predicts, in at most 9 minutes and without a network.

    python launch/bench/gpu.py [configs/ours/rl_cod_3b_one_gpu.yaml] [--out gpu_bench] \\
        [--minutes 9] [--parts ceilings attention ...] [--toy] [key=value ...]

The parts, in this order:
  ceilings   bytes/s of a device copy, FLOP/s of products, seconds of an iteration of a loop
  attention  the kernels of policy.attention, forward and backward: time and error against float32
  programs   the programs of a step with random weights: time and memory beside the plan's
  variants   gradient and sample_block again under other options of the compiler
  segmenter  encoding and decoding of SAM2 in the sidecar, alone and beside products of JAX
  training   steps of a tiny policy by GRPO, with and without the sidecar
  tests      the tests marked `gpu`

Each part is a separate process with a time limit of its own; all of them share one deadline. A part
that fails, or that a limit stops, keeps the rows it has written, and the next one runs. Ctrl-C and
SIGTERM end the script in the same way.

OUT/gpu.json has all rows, OUT/gpu.md the same as tables, OUT/gpu.log the output of the parts. Times
are medians, in seconds. The exit status is 1 if a part failed, 130 after an interruption. The plan
is computed at the ceilings measured here; on a CPU it has no times. --toy runs the same code with a
tiny policy on the CPU.
"""

import argparse
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path

# Parts of launch/first_day.py are shared.
sys.path.append(str(Path(__file__).parents[1]))

from gpu_parts.record import Record
from gpu_parts.request import Request
from gpu_parts.runner import Part, interrupt, run_parts

from segr1_jax.config.loading import load_config
from segr1_jax.errors import UserError

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "ours" / "rl_cod_3b_one_gpu.yaml"
# In the order of their worth; the limits are in seconds.
PARTS = (
    Part("ceilings", "ceilings", 60),
    Part("attention", "attention", 90),
    Part("programs", "programs", 200),
    Part("variants", "variants", 150),
    Part("segmenter", "segmenter", 90),
    Part("training", "training", 90),
    Part("tests", "marked_tests", 150),
)
USER_FAULT, INTERRUPTED = 2, 130
TOY = [
    *("policy.path=", "policy.arch=segr1-tiny", "policy.compute_dtype=float32"),
    *("policy.lora.rank=4", "policy.remat=none", "batch=4", "micro_batches=2", "eval_batch=4"),
    *("prompt.frame=84", "prompt.max_tokens=48", "rollout.group=4", "rollout.max_tokens=100"),
    *("reward.sam2_config=", "reward.sam2_checkpoint=", "reward.device=cpu"),
    *("reward.dtype=float32", "hardware.kind=cpu"),
]
ANSWER_TOKENS, TOY_ANSWER_TOKENS = 200, 40


def main() -> int:
    options = _options()
    toy = TOY if options.toy else []
    try:
        config = load_config(options.config, [*toy, *options.overrides])
    except UserError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return USER_FAULT
    record = Record(options.out)
    if options.part:
        answer_tokens = options.answer_tokens
        if not answer_tokens:
            answer_tokens = TOY_ANSWER_TOKENS if options.toy else ANSWER_TOKENS
        return _measure(Request(config, options.toy, answer_tokens, record), options.part)
    return _run_all(options, record)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.name for part in PARTS]
    parser.add_argument("config", nargs="?", type=Path, default=CONFIG, help="of the stage grpo")
    parser.add_argument("overrides", nargs="*", default=[], help="key=value")
    parser.add_argument("--out", type=Path, default=Path("gpu_bench"))
    parser.add_argument("--minutes", type=float, default=9.0, help="deadline of all parts")
    parser.add_argument("--parts", nargs="+", choices=names, default=names)
    parser.add_argument("--toy", action="store_true", help="a tiny policy, for a CPU")
    parser.add_argument(
        "--answer-tokens", type=int, default=0, help="length of the shorter answers (200)"
    )
    parser.add_argument("--part", choices=names, help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args()
    if "=" in str(options.config):
        options.overrides.insert(0, str(options.config))
        options.config = CONFIG
    return options


def _run_all(options: argparse.Namespace, record: Record) -> int:
    """Run the parts one after the other, each in a process of its own."""
    deadline = time.monotonic() + 60 * options.minutes
    signal.signal(signal.SIGTERM, interrupt)
    record.begin(command=" ".join(sys.argv), toy=options.toy)
    # Programs that several parts compile are compiled once.
    environment = os.environ | {"PYTHONPATH": _path()}
    command = [sys.executable, __file__, *sys.argv[1:], "--out", str(options.out)]
    chosen = [part for part in PARTS if part.name in options.parts]
    try:
        run_parts(
            chosen, lambda part: [*command, "--part", part.name], record, deadline, environment
        )
    except KeyboardInterrupt:
        print(record.page())
        return INTERRUPTED
    print(record.page())
    return int(any(record.part(part.name)["status"] == "failed" for part in chosen))


def _path() -> str:
    """Return PYTHONPATH with this package in front, which need not be installed."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def _measure(request: Request, name: str) -> int:
    """Measure one part in this process. Its exit status is 1 if the part or a row failed."""
    (module,) = (part.module for part in PARTS if part.name == name)

    def add(row: dict) -> None:
        print(json.dumps(row), flush=True)
        request.record.add(name, row)

    importlib.import_module(f"gpu_parts.{module}").measure(request, add)
    return int(any("error" in row for row in request.record.part(name)["rows"]))


if __name__ == "__main__":
    sys.exit(main())

"""Every example in `--help` runs as it stands, at toy size, in a folder without the repository."""

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from segr1_jax.cli.parser import OVERVIEW, build_parser

SHARED = ["steps=2", "optimizer.warmup_steps=0", "batch=4", "micro_batches=1", "eval_batch=2"]
SHORT = [*SHARED, "eval_data.count=2", "eval_every=2", "save_every=2"]
# Words that make an example small; they override those of the example.
SMALLER = {
    "sft": [*SHORT, "data.count=8"],
    "train": [*SHORT, "data.count=8", "rollout.max_tokens=8"],
    "eval": ["eval_data.count=2", "eval_batch=2"],
    "predict": ["eval_data.count=2", "eval_batch=2"],
    "profile": [*SHORT, "rollout.max_tokens=8"],
    "export": ["--no-check"],
}
# What an example needs that this machine may lack, and the one that runs until it is stopped.
LEFT_OUT = {
    "CONFIG": "a form with words to fill in",
    "--topology": "a compiler for TPUs or GPUs: tests/plan",
    "ORG/NAME": "the Hub: tests/training/test_hub_run.py",
    "/data/": "published data sets: tests/data",
    "segr1 demo": "runs until it is stopped: tests/infer/test_demo_process.py",
    ".venv-sidecar": "a second environment: tests/launch/test_setup.py",
}


COMMAND = r"^(?:example:)? +(segr1 [a-z]+.*)$"


def examples() -> list[str]:
    """Return the commands of the overview, then those of each command's help."""
    texts = [OVERVIEW, *(parser.format_help() for parser in _parsers().values())]
    joined = [re.sub(r"\\\n\s+", "", text) for text in texts]
    # Lines of examples, not of usage and not those that say what comes next.
    lines = [line for text in joined for line in re.findall(COMMAND, text, re.MULTILINE)]
    commands = [re.split(r"   | > ", line)[0].strip() for line in lines]
    return list(dict.fromkeys(commands))


def _parsers() -> dict[str, argparse.ArgumentParser]:
    return next(
        action.choices
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )


def small(command: str) -> list[str]:
    _, name, *words = shlex.split(command)
    return [name, *words, *SMALLER.get(name, [])]


def test_each_command_has_an_example_that_is_found():
    named = {command.split()[1] for command in examples()}
    assert named == set(_parsers())


@pytest.mark.e2e
def test_every_example_runs(tmp_path):
    from PIL import Image

    from segr1_jax.data.config import DataConfig
    from segr1_jax.data.synthetic import generate

    (tmp_path / "photos").mkdir()
    example = generate(DataConfig(size=168), 0)
    Image.fromarray(example.image).save(tmp_path / "photos/cup.png")
    Image.fromarray(example.mask).save(tmp_path / "cup_mask.png")
    (tmp_path / "in.jsonl").write_text(
        '{"image": "photos/cup.png", "mask": "cup_mask.png", "answer": "none"}\n'
    )
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    ran = []
    for command in examples():
        if any(part in command for part in LEFT_OUT):
            continue
        done = subprocess.run(
            [sys.executable, "-m", "segr1_jax.cli", *small(command)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        ran.append(command)
    assert len(ran) > 15

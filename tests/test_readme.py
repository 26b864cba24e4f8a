"""The blocks of the first page: every command parses, and those that need no hardware run."""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from segr1_jax.cli import parse
from segr1_jax.data.config import DataConfig
from segr1_jax.data.sets.toy import write_toy_sets
from segr1_jax.data.synthetic import generate
from segr1_jax.hf.tiny_policy import make_tiny_policy

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
# Of the examples of own images: fewer steps, and prompts and evaluations as small as they get.
SMALLER = {
    "steps=60": "steps=2 optimizer.warmup_steps=0 batch=4 micro_batches=1",
    "steps=40": "steps=2 optimizer.warmup_steps=0 batch=4 micro_batches=1 rollout.max_tokens=8",
    "runs/quickstart/grpo": "tiny",
    "ROOT/": "toy/",
    "configs/": f"{ROOT}/configs/",
}


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(README) if found == language]


def commands() -> list[str]:
    lines = "".join(blocks("bash")).splitlines()
    return [line.partition(" #")[0].strip() for line in lines if line.startswith("segr1 ")]


@pytest.mark.parametrize("command", commands())
def test_every_command_parses_and_names_a_configuration_that_exists(command):
    words = shlex.split(command.replace("$MINE", "steps=1"))
    options = parse(words[1:])
    config = str(getattr(options, "config", ""))
    assert (ROOT / config).exists() or config.startswith("runs/")


def test_every_python_block_compiles():
    assert [ast.parse(text) for text in blocks("python")]


@pytest.mark.e2e
def test_the_examples_of_own_images_and_of_python_run(tmp_path):
    make_tiny_policy(tmp_path / "tiny", seed=0)
    write_toy_sets(tmp_path / "toy", seed=0)
    (tmp_path / "bin").mkdir()
    segr1 = tmp_path / "bin/segr1"
    segr1.write_text(f'#!/bin/sh\nexec {sys.executable} -m segr1_jax.cli "$@"\n')
    segr1.chmod(0o755)
    left_out = ("XLA_FLAGS", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {
        "PATH": f"{segr1.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    (mine,) = [text for text in blocks("bash") if text.startswith("MINE=")]
    for words, others in SMALLER.items():
        assert words in mine
        mine = mine.replace(words, others)
    run("bash", "-euo", "pipefail", "-c", mine)
    assert (tmp_path / "runs/mine/samples/predict/predictions.jsonl").read_text()

    photo = Image.fromarray(generate(DataConfig(size=168), 0).image)
    photo.save(tmp_path / "photo.jpg")
    (text,) = blocks("python")
    assert '"runs/quickstart/grpo"' in text
    run(sys.executable, "-c", text.replace('"runs/quickstart/grpo"', '"runs/mine"'))
    assert Image.open(tmp_path / "overlay.png").size == photo.size

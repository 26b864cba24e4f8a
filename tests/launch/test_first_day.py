"""launch/first_day.py at toy size on the CPU: the whole road, and a part that cannot run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segr1_jax.hf.tiny import make_tiny_policy

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "quickstart_grpo.yaml"
SMALL = [
    *("batch=4", "micro_batches=2", "eval_batch=4", "prompt.frame=84", "prompt.max_tokens=48"),
    *("rollout.group=2", "rollout.max_tokens=4"),
    *("data.size=84", "data.count=16", "eval_data.size=84", "eval_data.count=8"),
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("policy") / "tiny", frame=84)


def first_day(out: Path, *words: str) -> subprocess.CompletedProcess:
    # One device: a mesh of eight takes much longer to compile for.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "launch/first_day.py", str(CONFIG), *SMALL, *words]
    return subprocess.run(
        [*command, "--out", str(out)], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def rows(out: Path) -> list[list[str]]:
    lines = (out / "first_day.md").read_text().splitlines()
    start = lines.index("|---|---|---|---|") + 1
    return [line.strip("| ").split(" | ") for line in lines[start:]]


def photos(folder: Path) -> list[str]:
    """Noise of several shapes, one larger than the sidecar scores at."""
    rng, paths = np.random.default_rng(0), []
    for number, shape in enumerate([(90, 120), (200, 60), (84, 84), (1100, 40)]):
        paths.append(folder / f"{number}.png")
        Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(paths[-1])
    return list(map(str, paths))


def test_every_part_passes(policy, tmp_path):
    done = first_day(tmp_path, f"policy.path={policy}", "--photos", *photos(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    page = rows(tmp_path)
    assert done.stdout.startswith("# First day of segr1_jax")
    assert [row[-1] for row in page] == ["ok", "ok", "ok", "ok", "ok", "not compared", "ok"]
    assert "4 photos" in page[2][0]
    assert page[3][2] == "1.0000, 1.0000, 1.0000, 1.0000"
    assert not list(tmp_path.glob("run.*"))

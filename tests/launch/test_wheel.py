"""A wheel in an environment of its own, used from a folder without the repository."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHORT = ["steps=3", "save_every=3", "eval_every=3", "eval_data.count=2", "eval_batch=2"]
SHORT += ["optimizer.warmup_steps=0", "batch=4", "micro_batches=1"]


def run(*command: str | Path, **options) -> str:
    # The tests set XLA_FLAGS for 8 devices.
    left_out = ("PYTHONPATH", "XLA_FLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment["SAM2_BUILD_CUDA"] = "0"
    done = subprocess.run(command, capture_output=True, text=True, env=environment, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_quickstart_trains_by_name_from_a_wheel(tmp_path):
    """Installation takes minutes and 8 GB."""
    # A copy, for a build leaves its files in the source.
    source = tmp_path / "source"
    for name in ("segr1_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", tmp_path, source)
    (wheel,) = tmp_path.glob("*.whl")
    held = {Path(name) for name in zipfile.ZipFile(wheel).namelist()}
    shipped = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").glob("**/*.*")}
    recipes = {path for path in shipped if path.suffix in (".yaml", ".json")}
    assert len(recipes) > 10
    assert {Path("segr1_jax/recipes") / path for path in recipes} <= held
    assert not [path for path in held if path.parts[0] in ("tests", "launch", "configs")]

    venv.create(tmp_path / "venv", with_pip=True)
    python, segr1 = tmp_path / "venv/bin/python", tmp_path / "venv/bin/segr1"
    run(python, "-m", "pip", "install", "torch", "torchvision", "setuptools>=77", "wheel")
    run(python, "-m", "pip", "install", "--no-build-isolation", f"{wheel}[sidecar]")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert "quickstart_sft" in run(segr1, "recipes", cwd=elsewhere)
    run(segr1, "tiny", "runs/quickstart/tiny", cwd=elsewhere)
    run(segr1, "sft", "quickstart_sft", *SHORT, cwd=elsewhere)
    lines = (elsewhere / "runs/quickstart/sft/metrics.jsonl").read_text().splitlines()
    assert len(lines) >= 3

"""launch/first_day.py at toy size on the CPU: the whole road, and a part that cannot run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segr1_jax.config.loading import load_config
from segr1_jax.data.sources import open_source
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.reward.config import RewardConfig

sys.path.append(str(Path(__file__).parents[2] / "launch"))
import first_day as first_day_script
from first_day_parts import masks, parity, training
from first_day_parts.digests import digests
from first_day_parts.request import FAILED, NOT_COMPARED, OK

pytestmark = pytest.mark.usefixtures("compile_quickly")

ROOT = Path(__file__).parents[2]
PARTS = ("parity", "masks", "training", "restored")
CONFIG = ROOT / "configs" / "quickstart_grpo.yaml"
SMALL = [
    *("batch=4", "micro_batches=2", "eval_batch=4", "prompt.frame=84", "prompt.max_tokens=48"),
    *("rollout.group=2", "rollout.max_tokens=4"),
    *("data.size=84", "data.count=16", "eval_data.size=84", "eval_data.count=8"),
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("policy") / "tiny", frame=84)


def first_day(out: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    # One device: a mesh of eight takes much longer to compile for.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    environment |= variables
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
    for number, shape in enumerate([(90, 120), (200, 60), (84, 84), (2000, 3000)]):
        paths.append(folder / f"{number}.png")
        Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(paths[-1])
    return list(map(str, paths))


@pytest.mark.e2e
def test_every_part_passes(policy, tmp_path):
    words = [f"policy.path={policy}", "--photos", *photos(tmp_path)]
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA H100, 580.159, 81559 MiB'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    done = first_day(tmp_path, *words, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "- hardware: 1 x cpu, driver: NVIDIA H100, 580.159, 81559 MiB" in done.stdout
    page = rows(tmp_path)
    assert done.stdout.startswith("# First day of segr1_jax")
    assert [row[-1] for row in page] == ["ok", "ok", "ok", "ok", "ok", "not compared", "ok"]
    assert "4 photos" in page[2][0]
    assert page[3][2] == "1.0000, 1.0000, 1.0000, 1.0000"
    assert not list(tmp_path.glob("run.*"))


@pytest.mark.e2e
def test_a_part_that_fails_is_a_line_and_the_next_one_runs(policy, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(policy, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    done = first_day(tmp_path / "out", f"policy.path={broken}", "--photos", *photos(tmp_path))
    assert done.returncode == 1
    page = rows(tmp_path / "out")
    assert [row[0].split()[0] for row in page] == ["environment", "device", *PARTS]
    assert [row[-1] for row in page] == ["ok", "ok", "failed", "ok", "failed", "failed"]
    assert "model.safetensors" in page[2][2]
    assert "Traceback" not in done.stderr


def test_without_a_data_set_pictures_are_drawn():
    one_gpu = ROOT / "configs" / "ours" / "rl_cod_3b_one_gpu.yaml"
    config = load_config(one_gpu, first_day_script.SYNTHETIC)
    assert config.data.part == "all"
    drawn, held_out = (open_source(each)[0] for each in (config.data, config.eval_data))
    assert not np.array_equal(drawn.image, held_out.image)


def test_a_mistake_is_one_sentence_before_anything_runs(tmp_path):
    done = first_day(tmp_path / "out", "policy.path=nowhere")
    assert done.returncode == 2
    assert "policy.path: expected a directory" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_wrong_model_is_further_from_float32_than_rounding_is():
    exact = -np.random.default_rng(0).random((4, 62))
    rounded = exact + 0.01 * np.random.default_rng(1).standard_normal(exact.shape)
    again = exact + 0.01 * np.random.default_rng(2).standard_normal(exact.shape)
    assert parity.compare(again, rounded, exact).verdict == OK
    # One token of sixteen is off by a tenth.
    again[:, ::16] += 0.1
    assert parity.compare(again, rounded, exact).verdict == FAILED
    again[:] = np.nan
    assert parity.compare(again, rounded, exact).verdict == FAILED


def test_a_device_that_held_more_than_planned_fails():
    assert training.compare(9e9, 12e9, "update", int(11e9), 0).verdict == OK
    assert training.compare(9e9, 12e9, "update", int(13e9), 0).verdict == FAILED
    assert training.compare(9e9, 12e9, "update", None, int(13e9)).verdict == NOT_COMPARED


@pytest.mark.gpu
@pytest.mark.skipif(not Path("/dev/nvidia0").exists(), reason="no NVIDIA GPU on this machine")
def test_every_part_passes_on_a_gpu(policy, tmp_path):
    on_gpu = ["policy.compute_dtype=bfloat16", "reward.device=cuda", "reward.dtype=bfloat16"]
    done = first_day(tmp_path, f"policy.path={policy}", *on_gpu, JAX_PLATFORMS="cuda")
    page = rows(tmp_path)
    # The arrays of a policy this small are less than what XLA sets aside for itself.
    assert all(row[-1] == "ok" for row in page if row[0] != "memory of the steps"), done.stdout


def test_one_bad_mask_of_four_fails():
    good = [np.tri(40, dtype=bool)] * 4
    assert masks.compare(good, good, RewardConfig()).verdict == OK
    shifted = [*good[:3], np.tri(40, k=-2, dtype=bool)]
    assert masks.compare(shifted, good, RewardConfig(dtype="bfloat16")).verdict == FAILED
    empty = [np.zeros((40, 40), bool)] * 4
    assert masks.compare(empty, empty, RewardConfig()).verdict == FAILED


def test_digests_tell_one_bit_and_the_type():
    state = {"w": np.zeros(3, np.float32), "n": np.int32(2)}
    before = digests(state, 8)
    assert before == digests(state | {"w": np.zeros(3, np.float32)}, 8)
    for other in (
        {"w": np.float32([0, -0.0, 0])},
        {"w": np.zeros(3, np.int32)},
        {"n": np.int32(3)},
    ):
        assert before != digests(state | other, 8)

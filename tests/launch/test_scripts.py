"""Every Python script of launch/ runs at toy size on the CPU: a test for each, named as the script.

The name of a script in a folder begins with the folder's, as in test_bench_pixels. Measurements are
not judged here, only that a script comes to its end and prints its figures.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from segr1_jax.config.loading import dump_config, load_config
from segr1_jax.hf.tiny_policy import make_tiny_policy

pytestmark = pytest.mark.usefixtures("compile_quickly")

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
NANO = ROOT / "segr1_jax" / "reward" / "assets" / "sam2_nano.safetensors"
TESTED_ELSEWHERE = {
    "bench_gpu": "launch/test_bench_gpu.py",
    "first_day": "launch/test_first_day.py",
    "nano_sam2_gates": "reward/test_nano_gates.py",
    "nano_sam2_prompts": "reward/test_nano_prompts.py",
}
GRPO = "configs/quickstart_grpo.yaml"
SMALL = [
    *("batch=4", "micro_batches=2", "eval_batch=4", "prompt.frame=84", "prompt.max_tokens=48"),
    *("rollout.group=2", "rollout.max_tokens=4"),
    *("data.size=84", "data.count=16", "eval_data.size=84", "eval_data.count=8"),
]


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"without {', '.join(missing)}")


def run(script: str, *words: object, statuses: tuple[int, ...] = (0,)) -> str:
    """What the script prints; 1 is the status of one whose measurement missed its goal."""
    # One device: a mesh of eight takes much longer to compile for.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, f"launch/{script}.py", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode in statuses, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("policy") / "tiny", frame=84)


@pytest.fixture
def exported(policy, tmp_path):
    """A configuration whose run directory holds a policy and its export."""
    shutil.copytree(policy, tmp_path / "run")
    shutil.copytree(policy, tmp_path / "run" / "export")
    config = tmp_path / "config.yaml"
    config.write_text(dump_config(load_config(ROOT / GRPO, [*SMALL, f"run_dir={tmp_path}/run"])))
    return config


def test_every_script_has_its_test():
    assert all((ROOT / "tests" / file).is_file() for file in TESTED_ELSEWHERE.values())
    tested = {name.removeprefix("test_") for name in globals()} | TESTED_ELSEWHERE.keys()
    scripts = [path for path in LAUNCH.rglob("*.py") if not path.parent.name.endswith("_parts")]
    assert {"_".join(path.relative_to(LAUNCH).with_suffix("").parts) for path in scripts} <= tested


@pytest.mark.parametrize(
    "script",
    ["bench/overlap", "bench/reward", "bench/shared_prefix", "compile_depth", "learning_table"],
)
def test_arguments_of_slow_ones(script):
    assert "usage:" in run(script, "--help")


@pytest.mark.slow
def test_bench_overlap(policy):
    words = [GRPO, *SMALL, f"policy.path={policy}", "optimizer.warmup_steps=0", "--steps", 5]
    assert "ratio" in run("bench/overlap", *words)


def test_bench_pixels():
    text = run("bench/pixels", "--images", 2, "--side", 140, "--rounds", 1)
    assert "; 0 inputs differ" in text


@pytest.mark.slow
@needs("torch", "py_sod_metrics")
def test_bench_reward(shared):
    reference = shared / "bench" / "reference_reward.py"
    text = run("bench/reward", reference, "--answers", 1, "--rounds", 1, statuses=(0, 1))
    assert "scores agree: True" in text


@needs("py_sod_metrics")
def test_bench_s_measure():
    text = run("bench/s_measure", "--side", 40, "--rounds", 1, statuses=(0, 1))
    assert text.count("ratio") == 2


@pytest.mark.slow
def test_bench_shared_prefix():
    words = ["--rounds", 1, "--side", 84, "--answers", 2, "--tokens", 20]
    assert "times faster" in run("bench/shared_prefix", *words)


@pytest.mark.e2e
@needs("torch")
def test_checkpoint_memory(policy, tmp_path):
    made, out = tmp_path / "made", tmp_path / "out"
    run("checkpoint_memory", "make", made, "--arch", policy / "config.json")
    assert "0 different, 0 unexpected" in run("checkpoint_memory", "trip", made, out, "--devices=2")
    assert "faults none" in run("checkpoint_memory", "open", out)


@pytest.mark.slow
def test_compile_depth():
    words = ["--shallow", 1, "--deep", 2, "--rounds", 1]
    assert "ratio" in run("compile_depth", *words, statuses=(0, 1))


@pytest.mark.e2e
@needs("torch")
def test_export_check(exported):
    text = run("export_check", exported, "--images", 2)
    assert "2 images: same prompt ids 2, same greedy answer 2" in text


@pytest.mark.slow
def test_learning_table(tmp_path):
    short = ["steps=2", "eval_every=1", "save_every=2", "optimizer.warmup_steps=0"]
    small = ["batch=4", "micro_batches=1", "eval_batch=4", "eval_data.count=8", "data.count=16"]
    text = run("learning_table", *short, *small, "--seeds", 0, "--out", tmp_path)
    assert "over SFT continued" in text


def test_paired_gain(tmp_path):
    (tmp_path / "eval").mkdir()
    for step in range(6):
        rows = [{"example_id": i, "iou": 0.1 * i + 0.01 * step * (i + 1)} for i in range(3)]
        file = tmp_path / "eval" / f"step_{step:06d}.rows_0.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    # The last three steps are 4 on average; the samples gain .01, .02 and .03 of it each.
    assert "gain +0.0800" in run("paired_gain", tmp_path)


@pytest.mark.e2e
def test_plan_against_run(policy):
    small = ["prompt.frame=84", "prompt.max_tokens=48", "rollout.group=2", "rollout.max_tokens=4"]
    words = ["--arch", policy / "config.json", "--steps", 1, *small]
    # Beside arrays this small the process's own memory counts.
    assert "ratio" in run("plan_against_run", *words, statuses=(0, 1))


@pytest.mark.e2e
@needs("torch")
def test_processor_distance(exported):
    text = run("processor_distance", exported, "eval_data.size=112", "--images", 2)
    assert "IoU with the truth" in text


@pytest.mark.e2e
@needs("torch")
def test_nano_sam2_train(tmp_path):
    out = tmp_path / "nano.safetensors"
    words = ["--steps", 2, "--images", 1, "--start", NANO, "--out", out]
    assert "box_above_fill" in run("nano_sam2/train", *words, "--gate-images", 6)
    assert out.stat().st_size > 1e6

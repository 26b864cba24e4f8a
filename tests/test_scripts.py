"""Every Python script of launch/ runs: small where size is an argument, on a run of the tiny policy where one is needed.

What a script finds is its own affair here; a script that raises is a failure.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import CONFIG, SMALL

from segr1_jax.hf.tiny import make_tiny_policy

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(path.stem for path in LAUNCH.glob("*.py"))
# Statuses of scripts that compare: 0 and 1 for whether a bound held.
DONE = (0, 1)
SIZED = {
    "bench_s_measure": ["--side", "64", "--rounds", "1"],
    "compile_depth": ["--shallow", "1", "--deep", "2", "--rounds", "1"],
    "plan_against_run": ["--steps", "1"],
    "train_nano_sam2": ["--steps", "1", "--gate-images", "2", "--out", "nano.safetensors"],
}
ON_A_RUN = {
    "export_check": ["run", "--images", "8"],
    "paired_gain": ["run", "--last", "1"],
    "processor_distance": ["run", "eval_data.size=112", "--images", "4"],
    "bench_overlap": [str(CONFIG), *SMALL, "policy.path=tiny", "--steps", "8"],
}
FIRST_DAY = [str(CONFIG), *SMALL, "prompt.max_tokens=96", "policy.path=tiny"]
LONG = {"bench_shared_prefix": ["--rounds", "1"]}
OTHERS = {
    "bench_reward": "test_the_reward_benchmark",
    "checkpoint_memory": "test_checkpoints_in_and_out",
    "learning_table": "test_the_learning_table",
    "first_day": "test_the_first_day_finds_what_it_should",
    "first_day_parts": "test_the_first_day_finds_what_it_should",
    "reference_masks": "test_the_first_day_finds_what_it_should",
    "nano_gates": "train_nano_sam2",
    "nano_prompts": "train_nano_sam2",
}


def run(place: Path, script: str, *arguments: str) -> subprocess.CompletedProcess:
    variables = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(LAUNCH / f"{script}.py"), *arguments],
        cwd=place,
        env=os.environ | variables | {"XDG_CACHE_HOME": str(place / "cache")},
        capture_output=True,
        text=True,
        timeout=900,
    )


def check(done: subprocess.CompletedProcess) -> None:
    assert done.returncode in DONE, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout


def module(script: str):
    spec = importlib.util.spec_from_file_location(script, LAUNCH / f"{script}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_no_script_is_without_a_test():
    assert sorted(SIZED | ON_A_RUN | LONG | OTHERS) == SCRIPTS


@pytest.mark.e2e
@pytest.mark.parametrize("script", SIZED)
def test_a_script_runs_at_a_small_size(tmp_path, script):
    check(run(tmp_path, script, *SIZED[script]))


@pytest.mark.slow
@pytest.mark.parametrize("script", LONG)
def test_a_long_script_runs(tmp_path, script):
    check(run(tmp_path, script, *LONG[script]))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny policy, and a run of it with its export."""
    place = tmp_path_factory.mktemp("place")
    make_tiny_policy(place / "tiny", seed=1, frame=84)
    segr1 = [sys.executable, "-m", "segr1_jax.cli"]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    variables["XDG_CACHE_HOME"] = str(place / "cache")
    small = [*SMALL, "eval_every=1", "policy.path=tiny", "run_dir=run", "steps=6"]
    for words in (["train", str(CONFIG), *small], ["export", "run"]):
        subprocess.run([*segr1, *words], cwd=place, env=variables, check=True)
    return place


@pytest.mark.e2e
@pytest.mark.parametrize("script", ON_A_RUN)
def test_a_script_runs_on_a_run(place, script):
    check(run(place, script, *ON_A_RUN[script]))


@pytest.mark.e2e
def test_the_first_day_finds_what_it_should(place):
    done = run(place, "first_day", *FIRST_DAY, "--out", "day")
    assert done.returncode == 0, done.stdout
    page = (place / "day" / "first_day.md").read_text()
    assert page.count("| ok |") == 4
    assert "FAILED" not in page


@pytest.mark.e2e
def test_a_part_of_the_first_day_that_fails_is_told_of(place):
    """A SAM2 that is not there: the parts without it pass, the page names the reason."""
    broken = ["reward.sam2_config=absent.yaml", "reward.sam2_checkpoint=tiny/config.json"]
    done = run(place, "first_day", *FIRST_DAY, *broken, "--out", "broken")
    assert done.returncode == 1
    page = (place / "broken" / "first_day.md").read_text()
    assert page.count("| ok |") == 1
    assert page.count("| FAILED |") == 3
    assert "absent.yaml" in page


def test_checkpoints_in_and_out(tmp_path, monkeypatch):
    """checkpoint_memory at toy size: written, read on 8 fake devices, exported, opened by transformers."""
    script = module("checkpoint_memory")
    vision = script.HUB_CONFIG["vision_config"] | {
        **{"depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 4},
        **{"out_hidden_size": 64, "fullatt_block_indexes": [1]},
    }
    sizes = {
        **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "vision_config": vision},
        **{"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}},
    }
    monkeypatch.setattr(script, "HUB_CONFIG", script.HUB_CONFIG | sizes)
    script.make(tmp_path / "made")
    script.trip(tmp_path / "made", tmp_path / "out", 8)
    script.open_with_transformers(tmp_path / "out")


def test_the_learning_table(tmp_path, monkeypatch):
    """Its runs are stubs; every figure of the table comes from their files."""
    script = module("learning_table")
    called = []

    def segr1(*words):
        called.append(words[0])
        folder = tmp_path / "seed_0" / "grpo" / "eval"
        for each in (folder, tmp_path / "seed_0" / "sft_continued" / "eval"):
            each.mkdir(parents=True, exist_ok=True)
            names = ("constant", "step_000000", "shuffled", "truth")
            for name in (*names, f"step_{script.load_config(ROOT / script.GRPO).steps:06d}"):
                figures = {"format": 1.0, "iou": 0.5, "s_measure": 0.5}
                (each / f"{name}.json").write_text(json.dumps(figures))

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(script, "segr1", segr1)
    monkeypatch.setattr(sys, "argv", ["learning_table", "--seeds", "0", "--out", str(tmp_path)])
    script.main()
    assert called == ["tiny", "sft", "train", "sft"]
    assert "## Seed 0" in (tmp_path / "learning.md").read_text()


@pytest.mark.slow
def test_the_reward_benchmark(tmp_path, shared):
    check(run(tmp_path, "bench_reward", str(shared / "bench/reference_reward.py"), "--rounds", "1"))

"""Configuration: loading, errors that teach, the hash, and every file in configs/."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segr1_jax.config.checks import check_rules, require_fixed_frame
from segr1_jax.config.loading import (
    describe,
    dump_config,
    flatten,
    load_config,
)
from segr1_jax.config.recipes import read_head
from segr1_jax.config.schema import RunConfig
from segr1_jax.config.unknown_keys import FOREIGN
from segr1_jax.errors import UserError
from segr1_jax.training.sft_samples import sft_task
from segr1_jax.types import Example

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
PRINTABLE = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="$"), max_size=20
)


def test_file_then_overrides(write):
    path = write("steps: 7\noptimizer: {learning_rate: 3e-4}\neval_data: {level: salient}\n")
    config = load_config(path, ["steps=9", "reward.weights.iou=1", "policy.path=runs/tiny"])
    assert (config.steps, config.optimizer.learning_rate, config.policy.path) == (
        9,
        3e-4,
        "runs/tiny",
    )
    assert config.reward.weights.iou == 1.0
    assert isinstance(config.reward.weights.iou, float)
    assert (config.eval_data.level, config.eval_data.count, config.eval_data.seed) == (
        "salient",
        200,
        1,
    )  # the section's own defaults stay


def test_run_directory_stands_for_its_config(tmp_path):
    (tmp_path / "config.yaml").write_text("steps: 3\n")
    assert load_config(tmp_path).steps == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("step: 3", ("run.yaml", "'step'", "did you mean steps")),
        ("optimizer: {lr_rate: 1}", ("run.yaml", "optimizer.lr_rate", "optimizer.learning_rate")),
        ("learning_rate: 1e-3", ("optimizer.learning_rate",)),
        ("steps: many", ("run.yaml: steps", "expected int", "'many' (str)")),
        ("steps: 1.5", ("expected int", "1.5 (float)")),
        ("deterministic: 1", ("expected bool", "1 (int)")),
        ("run_dir: 12", ("expected str", "quotes")),
        ("data: 3", ("run.yaml: data", "a section")),
        (
            "eval_data: {kind: zip}",
            ("run.yaml: eval_data.kind", "folder, jsonl, hub, published, synthetic", "'zip'"),
        ),
        ("run_dir: ${oc.env:HOME}", ("run_dir", "interpolation")),
        ("run_dir: ${", ("run.yaml",)),
        ("[1, 2]", ("key: value",)),
        ("steps: [", ("YAML",)),
        ("steps: 1\nsteps: 2", ("YAML", "duplicate")),
        ("optimizer: {learning_rate: .nan}", ("optimizer.learning_rate", "a finite number")),
        ("optimizer: {learning_rate: -.inf}", ("optimizer.learning_rate", "a finite number")),
        ("reward: {gpu_memory: 1e400}", ("reward.gpu_memory", "a finite number")),
        (f"steps: 1{'0' * 400}", ("steps", "a finite number")),
        (f"steps: 1{'0' * 5000}", ("run.yaml", "YAML")),
        ("a: &a [1]\nb: *a", ("run.yaml:2", "the alias *a")),
        ("[" * 5000, ("run.yaml", "YAML")),
        ("steps: !!int x", ("run.yaml", "YAML")),
        (f"run_dir: {'a' * 2**16}", ("run.yaml", "at most 64 kB")),
    ],
)
def test_bad_file_names_place_and_remedy(write, text, words):
    with pytest.raises(UserError) as error:
        load_config(write(text))
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    "override", ["steps", "=3", "step=3", "run_dir=${oc.env:HOME}", "steps=[", "seed=abc"]
)
def test_bad_override(write, override):
    with pytest.raises(UserError, match="command line"):
        load_config(write("steps: 3"), [override])


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("optimizer.lr", "optimizer.learning_rate"),
        ("lr", "optimizer.learning_rate"),
        ("epochs", "steps"),
        ("output_dir", "run_dir"),
        ("num_generations", "rollout.group"),
        ("rollout.num_generations", "rollout.group"),
        ("per_device_train_batch_size", "batch"),
    ],
)
def test_keys_of_other_trainers_name_ours(write, key, meant):
    with pytest.raises(UserError, match=rf"got '{key}'\. Remedy: did you mean {meant} \("):
        load_config(write(""), [f"{key}=1"])


def test_every_foreign_name_leads_to_a_key():
    assert set(FOREIGN.values()) <= set(flatten(RunConfig()))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", ""),
        ("runs/a #d", "runs/a #d"),
        ("12", "12"),
        ("'12'", "12"),
        ('"a"', "a"),
        ("a: [b", "a: [b"),
        ("C:\\new", "C:\\new"),
        ("été 😀", "été 😀"),
    ],
)
def test_a_text_on_the_command_line_is_taken_as_it_stands(write, value, text):
    assert load_config(write("run_dir: other"), [f"run_dir={value}"]).run_dir == text


def test_an_empty_value_overrides_a_text_of_the_file(write):
    path = write("eval_data: {ids: held_out.txt}")
    assert load_config(path, ["eval_data.ids="]).eval_data.ids == ""
    with pytest.raises(UserError, match="command line: steps: expected int"):
        load_config(path, ["steps="])


def test_warmup_shrinks_with_a_run_shortened_on_the_command_line(write, capsys):
    path = write("steps: 140\noptimizer: {warmup_steps: 50}")
    assert load_config(path, ["steps=51"]).optimizer.warmup_steps == 50
    assert capsys.readouterr().err == ""
    assert load_config(path, ["steps=14"]).optimizer.warmup_steps == 5
    assert capsys.readouterr().err == (
        "optimizer.warmup_steps is 5 instead of 50: the run has 14 updates instead of 140.\n"
    )


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("steps: 5\noptimizer: {warmup_steps: 5}", []),
        ("steps: 5\noptimizer: {warmup_steps: 5}", ["steps=4"]),
        ("steps: 5\noptimizer: {warmup_steps: 2}", ["steps=3", "optimizer.warmup_steps=3"]),
    ],
)
def test_a_warmup_that_was_asked_for_is_refused(write, text, overrides):
    with pytest.raises(UserError, match=r"optimizer\.warmup_steps: expected fewer"):
        load_config(write(text), overrides)


def test_missing_file():
    with pytest.raises(UserError, match=r"nowhere\.yaml.*no such file"):
        load_config("nowhere.yaml")


@settings(deadline=None)
@given(st.integers(1, 10**6), st.floats(1e-12, 1.0), PRINTABLE)
def test_dump_loads_back_to_the_same(tmp_path_factory, steps, rate, text):
    config = RunConfig(steps=steps, seed=3)
    config = dataclasses.replace(
        config, run_dir=text, optimizer=dataclasses.replace(config.optimizer, learning_rate=rate)
    )
    path = tmp_path_factory.mktemp("dump") / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config


def test_describe_lists_every_knob_with_its_doc():
    text = describe()
    for key in flatten(RunConfig()):
        assert f"{key} = " in text
    assert "weight of the mask IoU" in text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_builds_and_says_how_to_run_it(path):
    config = load_config(path)
    check_rules(config)
    recipe = read_head(path.stem, path.read_text())
    assert all(recipe), "the head says purpose, command, hardware, time and what to expect"
    assert str(path.relative_to(ROOT)) in recipe.command


def test_a_second_task_is_asked_of_every_other_sample(write):
    config = load_config(write("sft: {second_task: prerl}"))
    asked = [
        sft_task(config, Example(id=index, name="", image=np.zeros((1, 1, 3), np.uint8), mask=None))
        for index in range(4)
    ]
    assert asked == ["rl", "prerl", "rl", "prerl"]


def test_training_and_exports_need_one_frame(write):
    config = load_config(write("prompt: {frame: 0}"))
    with pytest.raises(UserError, match=r"prompt\.frame.*for training and exports, got 0"):
        require_fixed_frame(config)
    require_fixed_frame(load_config(write("")))


@pytest.mark.parametrize(("former", "now"), [("true", "full"), ("false", "none")])
def test_former_values_of_a_key_are_read(tmp_path, former, now):
    """Run directories of the time when policy.remat was a switch."""
    file = tmp_path / "config.yaml"
    file.write_text(f"policy: {{remat: {former}}}\n")
    assert load_config(file).policy.remat == now


def test_one_way_to_name_a_sam2_takes_the_place_of_the_other(write):
    local = ["reward.sam2_config=a.yaml", "reward.sam2_checkpoint=a.pt"]
    path = write("reward: {sam2_config: b.yaml, sam2_checkpoint: b.pt}")
    reward = load_config(path, ["reward.sam2=me/sam2"]).reward
    assert (reward.sam2, reward.sam2_config, reward.sam2_checkpoint) == ("me/sam2", "", "")
    with pytest.raises(UserError, match="got both"):
        load_config(path, ["reward.sam2=me/sam2", *local])
    assert load_config(path, ["reward.sam2="]).reward.sam2_config == "b.yaml"
    reward = load_config(write("reward: {sam2: me/sam2}"), local).reward
    assert (reward.sam2, reward.sam2_config) == ("", "a.yaml")

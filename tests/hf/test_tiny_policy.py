"""The tiny policy directory against transformers, which must load it as it is."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tower_values import tower_values
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    Qwen2_5_VLForConditionalGeneration,
)

from segr1_jax.answer.grammar import render
from segr1_jax.errors import UserError
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.prompt.config import PromptConfig
from segr1_jax.prompt.texts import TASKS
from segr1_jax.prompt.wording import messages
from segr1_jax.types import Answer, Example, Frame

PLANNED = Path(__file__).parents[2] / "configs" / "arch" / "segr1-tiny.json"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("policies") / "tiny", seed=3)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (168, 168, 3), dtype=np.uint8)


def test_same_seed_same_bytes(directory, tmp_path):
    again, other = (
        make_tiny_policy(tmp_path / "again", seed=3),
        make_tiny_policy(tmp_path / "other", seed=4),
    )
    names = sorted(file.name for file in directory.iterdir())
    assert names == sorted(file.name for file in again.iterdir())
    assert all((directory / name).read_bytes() == (again / name).read_bytes() for name in names)
    assert (directory / "model.safetensors").read_bytes() != (
        other / "model.safetensors"
    ).read_bytes()


def test_published_names_and_size(directory):
    weights = load_file(directory / "model.safetensors")
    assert {name.split(".")[0] for name in weights} == {"model", "visual"}
    assert 1e6 < sum(weight.size for weight in weights.values()) < 4e6


def test_plan_knows_its_architecture(directory):
    """`segr1 plan` reads it from configs/arch before there is a directory."""
    assert json.loads((directory / "config.json").read_text()) == json.loads(PLANNED.read_text())


@pytest.fixture(scope="module")
def processor(directory):
    """AutoProcessor with the Pillow image processor.

    Asked for `backend="pil"` itself it wants a Pillow video processor too, and fails.
    """
    processor = AutoProcessor.from_pretrained(directory)
    processor.image_processor = AutoImageProcessor.from_pretrained(directory, backend="pil")
    return processor


@pytest.mark.parametrize("task", TASKS)
def test_processor_gives_the_same_prompt(directory, processor, image, task):
    text = processor.apply_chat_template(messages(task), tokenize=False, add_generation_prompt=True)
    batch = processor(images=[image], text=[text], return_tensors="np")
    prompt = PromptBuilder.from_directory(directory, PromptConfig(task=task, frame=168)).build(
        Example(0, "noise", image, None)
    )
    np.testing.assert_array_equal(prompt.token_ids, batch["input_ids"][0])
    units = tower_values(prompt).reshape(-1, 4 * 1176)[prompt.image_index[prompt.image_index >= 0]]
    np.testing.assert_array_equal(units.reshape(-1, 1176), batch["pixel_values"])


def test_transformers_loads_every_weight_and_generates(directory, processor, image):
    model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        directory, output_loading_info=True
    )
    assert not any(info.values())
    text = processor.apply_chat_template(messages("rl"), tokenize=False, add_generation_prompt=True)
    batch = processor(images=[image], text=[text], return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
        generated = model.generate(**batch, max_new_tokens=4)
    assert torch.isfinite(logits).all()
    assert generated.shape[1] > batch["input_ids"].shape[1]
    embedding = load_file(directory / "model.safetensors")["model.embed_tokens.weight"]
    np.testing.assert_array_equal(model.lm_head.weight.detach().numpy(), embedding)


def test_frame_is_pinned_and_slow_parts_load(directory):
    processor = AutoImageProcessor.from_pretrained(directory, backend="pil")
    grid = processor(np.zeros((500, 500, 3), np.uint8), return_tensors="np")["image_grid_thw"]
    assert grid.tolist() == [[1, 12, 12]]


@pytest.mark.parametrize("number", [0, 7, 10, 99, 100, 110, 168])
def test_every_integer_of_the_frame_is_one_token(directory, number):
    builder = PromptBuilder.from_directory(directory, PromptConfig(frame=168))
    assert len(builder.tokenizer.encode(str(number))) == 1
    assert (
        builder.tokenizer.decode(builder.tokenizer.encode(f"[{number}, 999 tail"))
        == f"[{number}, 999 tail"
    )


def test_answers_are_short(directory):
    builder = PromptBuilder.from_directory(directory, PromptConfig(frame=168))
    line = "a small object at the top left"
    answer = Answer(
        line, ((10, 20, 110, 120),), ((50, 60), (70, 80), (12, 119)), (1, 1, 0), Frame(168, 168)
    )
    ids = builder.encode_answer(render(answer))
    assert len(ids) == 28
    assert AutoTokenizer.from_pretrained(directory).decode(ids, skip_special_tokens=True) == render(
        answer
    )


def test_bad_arguments_are_named_and_leave_nothing(tmp_path):
    with pytest.raises(UserError, match="multiple of 28"):
        make_tiny_policy(tmp_path / "new", frame=100)
    (tmp_path / "old").mkdir()
    with pytest.raises(UserError, match="does not exist yet"):
        make_tiny_policy(tmp_path / "old")
    assert [file.name for file in tmp_path.iterdir()] == ["old"]


def test_vocabulary_fits_the_config(directory):
    config = json.loads((directory / "config.json").read_text())
    tokenizer = PromptBuilder.from_directory(directory, PromptConfig(frame=168)).tokenizer
    assert config["vocab_size"] == len(tokenizer.ids)
    assert (config["eos_token_id"],) == tokenizer.end_ids
    assert config["image_token_id"] == tokenizer.image_pad_id

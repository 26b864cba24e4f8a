import json

import numpy as np
import pytest
from tower_values import tower_values
from transformers import AutoTokenizer

from segr1_jax.errors import UserError
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.prompt.config import PromptConfig
from segr1_jax.prompt.patches import patchify, stretch
from segr1_jax.prompt.texts import TASKS
from segr1_jax.prompt.tokenizer import Tokenizer
from segr1_jax.prompt.wording import chat_text, messages
from segr1_jax.types import Example, Frame


def example(instruction=None):
    image = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    return Example(id=4, name="noise", image=image, mask=None, instruction=instruction)


@pytest.fixture(scope="module")
def tokenizer(qwen_directory):
    return Tokenizer(qwen_directory)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("instruction", [None, "the red fish, left of the 2nd stone"])
def test_tokens_equal_the_chat_template(task, instruction, tokenizer, vision, qwen_directory):
    prompt = PromptBuilder(tokenizer, vision, PromptConfig(task=task, frame=168)).build(
        example(instruction)
    )
    asked = PromptBuilder(tokenizer, vision, PromptConfig(frame=168)).build(
        example(instruction), task
    )
    np.testing.assert_array_equal(asked.token_ids, prompt.token_ids)
    oracle = AutoTokenizer.from_pretrained(qwen_directory)
    text = oracle.apply_chat_template(
        messages(task, instruction), tokenize=False, add_generation_prompt=True
    )
    assert text == chat_text(messages(task, instruction), image_tokens=[1])
    expected = oracle(text.replace("<|image_pad|>", "<|image_pad|>" * 36))["input_ids"]
    assert prompt.token_ids.tolist() == expected
    builder = PromptBuilder(tokenizer, vision, PromptConfig(frame=168))
    assert builder.length(instruction, task) == len(expected)


def test_image_slots_point_at_their_windows(tokenizer, vision):
    prompt = PromptBuilder(tokenizer, vision, PromptConfig(frame=168)).build(example())
    slots = prompt.image_index[prompt.token_ids == tokenizer.image_pad_id]
    assert (prompt.image_index[prompt.token_ids != tokenizer.image_pad_id] == -1).all()
    patches = patchify(stretch(example().image, 168, 168), vision)
    units = tower_values(prompt).reshape(-1, 4 * patches.shape[1])[slots]
    np.testing.assert_array_equal(units.reshape(patches.shape), patches)
    assert (prompt.patches[~prompt.patch_mask] == 0).all()
    assert prompt.next_position == prompt.positions.max() + 1
    assert (prompt.native_frame.width, prompt.native_frame.height) == (130, 90)


def test_answers_end_the_turn(tokenizer, vision):
    builder = PromptBuilder(tokenizer, vision, PromptConfig(frame=168))
    ids = builder.encode_answer("<think>a</think>")
    assert ids[-1] == tokenizer.end_ids[0]
    assert tokenizer.decode(ids) == "<think>a</think>"


def test_long_prompts_are_rejected_not_cut(tokenizer, vision):
    with pytest.raises(UserError, match=r"max_tokens.*36 for the image"):
        PromptBuilder(tokenizer, vision, PromptConfig(frame=168, max_tokens=100)).build(example())


def test_sentences_may_not_spell_special_tokens(tokenizer, vision):
    with pytest.raises(UserError, match="instruction"):
        PromptBuilder(tokenizer, vision, PromptConfig(frame=168)).build(example("a<|image_pad|>b"))


def test_image_tokens_must_fit_the_grid(tmp_path, qwen_directory, vision):
    """A tokenizer that does not call its image token special lets a sentence smuggle one in.

    The grid still tells.
    """
    record = json.loads((qwen_directory / "tokenizer.json").read_text())
    for token in record["added_tokens"]:
        token["special"] = token["special"] and token["content"] != "<|image_pad|>"
    (tmp_path / "tokenizer.json").write_text(json.dumps(record))
    builder = PromptBuilder(Tokenizer(tmp_path), vision, PromptConfig(frame=168))
    assert builder.build(example("red fish")).patches.any()
    with pytest.raises(
        UserError,
        match=r"noise: prompt: expected runs of \[36\] image tokens.*"
        r"got \[36, 1\] in .*red<\|image_pad\|>fish",
    ):
        builder.build(example("red<|image_pad|>fish"))


def test_conversations_need_their_images(tokenizer, vision):
    builder = PromptBuilder(tokenizer, vision, PromptConfig(frame=168))
    with pytest.raises(UserError, match=r"pair: images: expected 1 images.*got 2"):
        builder.compose("pair", messages("rl"), [example().image] * 2)
    with pytest.raises(ValueError, match="1 images in the conversation, 0 given"):
        chat_text(messages("rl"), image_tokens=[])


def test_a_conversation_without_images(tokenizer, vision):
    prompt = PromptBuilder(tokenizer, vision, PromptConfig(frame=168)).compose(
        "text", [{"role": "user", "content": "Hello"}], []
    )
    assert prompt.patches.shape == (0, 64, 588)
    assert (prompt.positions == np.arange(len(prompt.token_ids))).all()


def test_own_frames_are_those_of_their_images(tokenizer, vision):
    builder = PromptBuilder(tokenizer, vision, PromptConfig(frame=0, max_pixels=100 * 100))
    assert (
        builder.frame_of(example())
        == builder.build(example()).model_frame
        == Frame(width=112, height=56)
    )
    thin = Example(id=0, name="thin.png", image=np.zeros((2, 402, 3), np.uint8), mask=None)
    with pytest.raises(UserError, match=r"thin\.png.*at most 200, got 402x2 pixels"):
        builder.build(thin)


@pytest.mark.parametrize(
    "wrong",
    [{"frame": 27}, {"frame": -28}, {"max_pixels": 783}, {"min_pixels": 1000, "max_pixels": 900}],
)
def test_frames_out_of_range_are_named(wrong):
    with pytest.raises(UserError, match=r"prompt\.(frame|max_pixels)"):
        PromptConfig(**wrong)


def test_missing_and_malformed_tokenizers_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        Tokenizer(tmp_path)


def test_special_tokens_inside_an_answer_show(tokenizer):
    """Hidden ones would let an answer that no other engine accepts pass the parser.

    Only the end of the turn is dropped.
    """
    assert tokenizer.decode(tokenizer.encode("a<|endoftext|>b<|im_end|>")) == "a<|endoftext|>b"

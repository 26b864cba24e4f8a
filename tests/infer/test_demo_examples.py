"""The pictures that come with the demo are what their names say."""

import numpy as np
import pytest

from segr1_jax.data.config import DataConfig
from segr1_jax.data.images import open_image
from segr1_jax.data.synthetic import generate
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.infer.demo_examples import SEED, examples, fitting_examples
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.prompt.config import PromptConfig


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.image.stem)
def test_a_picture_is_the_sample_of_its_name(example):
    level, index = example.image.stem.split("_")
    objects = {"bright": 1, "salient": 3}[level]
    config = DataConfig(level=level, seed=SEED, max_objects=objects, sentences=objects > 1)
    made = generate(config, int(index))
    assert (made.instruction or "") == example.sentence
    # The generator is exact on one machine; libraries may round the last bit elsewhere.
    assert np.abs(open_image(example.image).astype(int) - made.image).max() <= 1


def test_there_are_pictures_with_and_without_a_sentence():
    assert {bool(example.sentence) for example in examples()} == {True, False}


@pytest.mark.parametrize(("max_tokens", "offered"), [(66, {False}), (128, {False, True})])
def test_pictures_whose_prompt_is_too_long_are_not_offered(tmp_path, max_tokens, offered):
    make_tiny_policy(tmp_path / "tiny", seed=0)
    prompt = PromptConfig(frame=168, max_tokens=max_tokens)
    found = fitting_examples(PromptBuilder.from_directory(tmp_path / "tiny", prompt))
    assert {bool(example.sentence) for example in found} == offered

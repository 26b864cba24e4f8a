"""A policy answers images in frames of their own.

Buckets fill the batch, and answers are read in the pixels of each image's frame.
"""

import dataclasses

import numpy as np
import pytest
from tolerances import TOL_SIMPLE

from segr1_jax.answer.grammar import render
from segr1_jax.answer.targets import target_answer
from segr1_jax.config.loading import load_config
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.infer.load_policy import open_policy
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.judging import AnswerText, submit
from segr1_jax.training.held_out import FILLER, Answerer
from segr1_jax.types import Example


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    make_tiny_policy(folder / "tiny", seed=0)
    (folder / "c.yaml").write_text(
        "prompt: {frame: 0, max_pixels: 28224, max_tokens: 128}\n"
        "rollout: {max_tokens: 4}\neval_batch: 8\n"
    )
    return open_policy(
        load_config(folder / "c.yaml", ["policy.compute_dtype=float32"]), folder / "tiny"
    )


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    return [
        Example(i, f"noise {i}", rng.integers(0, 256, (*size, 3), dtype=np.uint8), None)
        for i, size in enumerate([(300, 90), (60, 80)])
    ]


def test_company_changes_no_answer(opened, examples):
    engine = opened.engine
    answerer = Answerer(engine, opened.rollout_weights, 8, engine.builder.build(FILLER))
    prompts = [engine.builder.build(example) for example in examples]
    assert [engine.put_prompts([prompt] * 8).images.mask.shape[1] for prompt in prompts] == [
        12,
        2,
    ]
    together = answerer(prompts)
    for prompt, answer in zip(prompts, together, strict=True):
        (alone,) = answerer([prompt])
        np.testing.assert_array_equal(alone.token_ids, answer.token_ids)
        np.testing.assert_allclose(alone.logprobs, answer.logprobs, atol=TOL_SIMPLE)


class Recorder(RewardClient):
    """Starts no sidecar and keeps what it is asked."""

    def __init__(self):
        pass

    def submit(self, requests):
        self.requests = requests
        return 0


def test_answers_are_read_in_each_images_frame(opened, examples):
    texts, client, frame_of = [], Recorder(), opened.engine.builder.frame_of
    for example in examples:
        mask = np.zeros(example.image.shape[:2], bool)
        mask[20:50, 10:60] = True
        answer = target_answer(mask, frame_of(example), interior=1, exterior=0, name=example.name)
        texts.append(AnswerText(dataclasses.replace(example, mask=mask), render(answer)))
    submit(client, texts, frame_of, "rl")
    for request in client.requests:
        np.testing.assert_allclose(
            request.prompts[0].box, [10, 20, 60, 50], atol=2
        )  # whole pixels of a frame nearly twice as small

"""Window buckets and padding: they change shapes, never numbers, and nothing is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import TOL_SIMPLE
from tower_values import tower_values
from transformers_oracle import batch_of, make_prompt

from segr1_jax.errors import UserError
from segr1_jax.hf.load_weights import load_params, read_arch
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.policy.logprobs import score_tokens
from segr1_jax.policy.params import Policy
from segr1_jax.policy.qwen2_5_vl.inputs import pad_windows, stack_prompts, window_bucket
from segr1_jax.policy.qwen2_5_vl.vision import tower_inputs
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.prompt.config import PromptConfig
from segr1_jax.prompt.wording import messages
from segr1_jax.types import Example

FRAME, TOKENS = 168, 256


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("buckets") / "tiny", seed=0)


@pytest.fixture(scope="module")
def numbers(directory):
    """Return the image rows in their text slots, and log-probabilities of an arbitrary answer."""
    policy = Policy(read_arch(directory))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = load_params(directory, policy, dict.fromkeys(policy.specs, device))

    @jax.jit
    def compute(params, batch):
        model = policy.bind(params)
        tokens = jnp.broadcast_to(jnp.arange(20, 26), (batch.tokens.shape[0], 1, 6))
        rows = jnp.take_along_axis(
            model.image_features(batch.images), jnp.maximum(batch.image_index, 0)[..., None], axis=1
        )
        taken = jnp.where(batch.image_index[..., None] >= 0, rows, 0)
        return taken, score_tokens(model, batch, tokens, jnp.ones(tokens.shape, bool)).logprobs

    return lambda batch: compute(params, jax.tree.map(jnp.asarray, batch))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_device_normalizes_pixels_bit_for_bit(directory, dtype):
    builder = PromptBuilder.from_directory(directory, PromptConfig(frame=0, max_tokens=TOKENS))
    prompts = [builder.build(example) for example in examples((56, 84), (140, 112))]
    images = batch_of(prompts, TOKENS).images
    assert images.patches.dtype == np.uint8
    found = jax.jit(tower_inputs, static_argnums=(1, 2))(images, 2, dtype)
    for row, prompt in zip(found, prompts, strict=True):
        real = np.asarray(row)[: prompt.patch_mask.size][prompt.patch_mask.reshape(-1)]
        values = tower_values(prompt).reshape(prompt.patch_mask.size, -1)
        expected = jnp.asarray(values[prompt.patch_mask.reshape(-1)]).astype(dtype)
        np.testing.assert_array_equal(real, expected)


def assert_equal(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=TOL_SIMPLE)


def examples(*sizes):
    rng = np.random.default_rng(0)
    return [
        Example(i, f"noise {i}", rng.integers(0, 256, (*size, 3), dtype=np.uint8), None)
        for i, size in enumerate(sizes)
    ]


def test_a_larger_bucket_gives_the_same_numbers(directory, numbers):
    """Images of their own aspect ratio: alone and unpadded, then beside a prompt of two images."""
    builder = PromptBuilder.from_directory(
        directory, PromptConfig(frame=0, max_pixels=FRAME**2, max_tokens=TOKENS)
    )
    first, second, third = examples((90, 300), (120, 70), (40, 44))
    talk = [{"role": "user", "content": [{"type": "image"}, *messages("rl")[1]["content"]]}]
    prompts = [
        builder.build(first),
        builder.build(third),
        builder.compose("two", talk, [second.image, third.image]),
    ]
    counts = [len(prompt.patches) for prompt in prompts]
    assert len({window_bucket(count) for count in counts}) == 3
    together = numbers(stack_prompts(prompts, TOKENS, window_bucket(max(counts) + 1)))
    for row, prompt in enumerate(prompts):
        alone = numbers(stack_prompts([prompt], TOKENS))
        assert_equal([value[row : row + 1] for value in together], alone)


def test_fixed_frame_and_buckets_give_the_same_numbers(directory, numbers):
    fixed = PromptBuilder.from_directory(directory, PromptConfig(frame=FRAME, max_tokens=TOKENS))
    own = PromptBuilder.from_directory(
        directory,
        PromptConfig(frame=0, min_pixels=FRAME**2, max_pixels=FRAME**2, max_tokens=TOKENS),
    )
    squares = examples((200, 200), (113, 113))
    constant, bucketed = ([builder.build(square) for square in squares] for builder in (fixed, own))
    assert len(constant[0].patches) == 9
    for one, other in zip(constant, bucketed, strict=True):
        assert all(np.array_equal(value, vars(other)[name]) for name, value in vars(one).items())
    assert_equal(
        numbers(stack_prompts(bucketed, TOKENS, window_bucket(9))),
        numbers(stack_prompts(constant, TOKENS)),
    )


def test_buckets_are_few_and_tight():
    buckets = [window_bucket(windows) for windows in range(1, 1025)]
    assert all(
        windows <= bucket <= max(1.5 * windows, 1)
        for windows, bucket in enumerate(buckets, start=1)
    )
    assert len(set(buckets)) == 20
    assert all(window_bucket(bucket) == bucket for bucket in buckets)


def test_prompts_are_never_cut():
    prompt, wide = (
        make_prompt(np.random.default_rng(0), [size], [4, 6]) for size in ((84, 140), (56, 280))
    )
    with pytest.raises(UserError, match=r"prompt\.max_tokens: expected at least 27"):
        batch_of([prompt], capacity=26)
    with pytest.raises(UserError, match="windows: expected at most 5, got 6"):
        pad_windows(prompt, 5)
    with pytest.raises(UserError, match="one patch grid"):
        stack_prompts([prompt, wide], 48)

"""The shared prefix against the same completions with the prefix repeated for each.

Loss and every gradient leaf of the GRPO objective are compared in float32, over random group sizes,
lengths, masks, paddings and images.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import TOL_SIMPLE
from transformers_oracle import (
    batch_of,
    gradient_errors,
    load_pair,
    make_oracle,
    make_prompt,
    save_oracle,
    shift_right,
)

from segr1_jax.objective.batch import GroupBatch
from segr1_jax.objective.config import ObjectiveConfig
from segr1_jax.objective.loss import grpo_loss
from segr1_jax.policy.logprobs import score_tokens
from segr1_jax.policy.params import Params, Policy
from segr1_jax.policy.qwen2_5_vl.model import PromptBatch

CASES = [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))]
SIZES = ((84, 140), (56, 112), (168, 28), (56, 56))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return load_pair(save_oracle(make_oracle(), tmp_path_factory.mktemp("shared") / "policy"))


def random_case(seed: int) -> tuple[PromptBatch, GroupBatch]:
    """Two prompts of up to two images and their groups.

    Odd lengths, padding on both sides, some completions left out.
    """
    rng = np.random.default_rng(seed)
    G, T, images = int(rng.integers(1, 5)), int(rng.integers(2, 9)), int(rng.integers(0, 3))
    sizes = [SIZES[index] for index in rng.integers(0, len(SIZES), images)]
    prompts = [make_prompt(rng, sizes, list(rng.integers(1, 9, images + 1))) for _ in range(2)]
    batch = shift_right(batch_of(prompts, capacity=80), by=int(rng.integers(0, 9)))
    lengths = rng.integers(1, T + 1, (2, G))
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    completions = GroupBatch(
        tokens=jnp.asarray(rng.integers(0, 280, (2, G, T)), jnp.int32),
        mask=jnp.arange(T) < lengths[..., None],
        weight=jnp.asarray(rng.integers(0, 2, (2, G)) | (np.arange(G) == 0), jnp.float32),
        advantages=normal(2, G),
        sampler_logprobs=-jnp.abs(normal(2, G, T)),
        reference_logprobs=-5 - normal(2, G, T),
    )
    return batch, completions


def repeated(batch: PromptBatch, completions: GroupBatch) -> tuple[PromptBatch, GroupBatch]:
    """[B, G, ...] as [B * G, 1, ...], every prompt G times."""
    G = completions.tokens.shape[1]
    flat = jax.tree.map(lambda x: x.reshape(-1, 1, *x.shape[2:]), completions)
    return jax.tree.map(lambda x: jnp.repeat(x, G, axis=0), batch), flat


def loss_and_gradient(
    policy: Policy,
    params: Params,
    batch: PromptBatch,
    completions: GroupBatch,
    slots: int | None = None,
):
    def loss(params: Params):
        scores = score_tokens(
            policy.bind(params),
            batch,
            completions.tokens,
            completions.mask,
            temperature=0.7,
            chunk=3,
            slots=slots,
        )
        return grpo_loss(
            scores.logprobs, scores.entropy, completions, ObjectiveConfig(beta=0.04)
        ).objective.total

    return jax.jit(jax.value_and_grad(loss))(params)


def assert_same(found, expected, *, has_images: bool) -> None:
    np.testing.assert_allclose(found[0], expected[0], rtol=TOL_SIMPLE)
    trained = {
        name: gradient
        for name, gradient in expected[1].items()
        if has_images or not name.startswith("vision.")
    }
    errors = gradient_errors(found[1], trained)
    print("largest", list(errors.items())[:3])
    assert max(errors.values()) <= TOL_SIMPLE


@pytest.mark.parametrize("seed", CASES)
def test_equals_the_repeated_prefix(pair, seed):
    policy, params = pair
    batch, completions = random_case(seed)
    # Packed, without padding between the completions, in every second case.
    slots = int(completions.mask.sum(axis=(1, 2)).max()) if seed % 2 else None
    shared = loss_and_gradient(policy, params, batch, completions, slots)
    assert_same(
        shared,
        loss_and_gradient(policy, params, *repeated(batch, completions)),
        has_images=batch.images.patches.shape[1] > 0,
    )

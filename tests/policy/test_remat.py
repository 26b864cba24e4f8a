"""What the backward pass recomputes changes FLOPs and memory, not gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_kernels import PLAIN
from tolerances import TOL_SIMPLE
from transformers_oracle import batch_of, make_oracle, make_prompt

from segr1_jax.plan.flops import matmul_flops
from segr1_jax.policy.attention import Attention
from segr1_jax.policy.config import LoraConfig
from segr1_jax.policy.logprobs import score_tokens
from segr1_jax.policy.params import Policy
from segr1_jax.policy.qwen2_5_vl.arch import arch_from_config

G, T = 2, 5


@pytest.mark.parametrize("attention", ["cudnn", pytest.param("xla", marks=pytest.mark.slow)])
def test_gradients_agree_and_products_are_computed_once(attention):
    """cuDNN's kernels are plain ones here; adapters add to the products of the maps."""
    arch = arch_from_config(make_oracle().config.to_dict())
    policy = Policy(arch, lora=LoraConfig(4), attention=Attention(attention, kernels=PLAIN))
    weights = {
        name: value + 0.05 * np.sin(np.arange(value.size)).reshape(value.shape)
        for name, value in policy.init(0).items()
    }
    rng = np.random.default_rng(0)
    prompts = batch_of([make_prompt(rng, [(56, 56)], [4, 6])], 32)
    tokens = jnp.asarray(rng.integers(0, 280, (1, G, T)), jnp.int32)

    def gradient(remat: str):
        model = dataclasses.replace(policy, remat=remat)

        def loss(weights):
            mask = jnp.ones(tokens.shape, bool)
            return score_tokens(model.bind(weights), prompts, tokens, mask).logprobs.sum()

        traced = jax.jit(jax.grad(loss)).trace(weights)
        flops = matmul_flops(traced.jaxpr.jaxpr, trips=1, true_share=0.5)
        return traced.lower().compile()(weights), flops

    (none, least), (products, few), (full, most) = map(gradient, ("none", "products", "full"))
    for name in none:
        np.testing.assert_allclose(products[name], none[name], atol=TOL_SIMPLE, err_msg=name)
        np.testing.assert_allclose(full[name], none[name], atol=TOL_SIMPLE, err_msg=name)
    assert least <= few < most
    # Only the narrow halves of the adapters, and attention in plain jnp, are computed again.
    assert few - least < 0.2 * (most - least)

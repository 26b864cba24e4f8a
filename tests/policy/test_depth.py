"""Depth costs no compile time.

The program of a gradient step is as long at 36 layers as at 4 (launch/compile_depth.py times it).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers_oracle import batch_of, make_oracle, make_prompt

from segr1_jax.policy.logprobs import score_tokens
from segr1_jax.policy.params import Policy
from segr1_jax.policy.qwen2_5_vl.arch import arch_from_config


@pytest.fixture(scope="module")
def arch():
    return arch_from_config(make_oracle().config.to_dict())


def lowered_lines(arch, depth: int, remat: str) -> int:
    """Lines of the lowered gradient of a token loss, both towers `depth` layers deep.

    Weights are shapes only.
    """
    vision = dataclasses.replace(arch.vision, depth=depth, full_layers=(1, 3))
    policy = Policy(
        dataclasses.replace(arch, vision=vision, text=dataclasses.replace(arch.text, layers=depth)),
        remat=remat,
    )
    batch = batch_of([make_prompt(np.random.default_rng(0), [(84, 140)], [4, 6])], capacity=32)
    tokens = jnp.zeros((1, 2, 5), jnp.int32)

    def loss(params):
        return score_tokens(
            policy.bind(params), batch, tokens, jnp.ones(tokens.shape, bool)
        ).logprobs.mean()

    weights = {
        name: jax.ShapeDtypeStruct(spec.shape, jnp.float32) for name, spec in policy.specs.items()
    }
    assert (
        weights["layers.attention.q.kernel"].shape[0]
        == weights["vision.layers.attention.q.kernel"].shape[0]
        == depth
    )
    return len(jax.jit(jax.grad(loss)).lower(weights).as_text().splitlines())


@pytest.mark.parametrize("remat", ["none", "products", "full"])
def test_the_program_does_not_grow_with_depth(arch, remat):
    assert lowered_lines(arch, 36, remat) == lowered_lines(arch, 4, remat)

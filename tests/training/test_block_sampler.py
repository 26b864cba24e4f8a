"""Decoding in blocks with growing caches against one loop in one program: equal bit for bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import monitoring
from tolerances import TOL_COMPLEX
from transformers_oracle import (
    batch_of,
    draw_weights,
    load_pair,
    make_oracle,
    make_prompt,
    save_oracle,
)

from segr1_jax.config.schema import MeshConfig
from segr1_jax.policy.decode_weights import DecodeLayout, decode_weights
from segr1_jax.rollout.sampler import Sampler
from segr1_jax.runtime.compile_guard import COMPILE_EVENT
from segr1_jax.runtime.compiled_functions import Watched
from segr1_jax.runtime.mesh import Placement, make_mesh
from segr1_jax.training.block_sampler import RolloutWeights, make_block_sampler, steps_to

TOKENS, GROUP, ROWS = 40, 3, 8


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """Policy, weights and prompts."""
    oracle = make_oracle(tied=True)
    draw_weights(oracle, 2.0)
    policy, params = load_pair(save_oracle(oracle, tmp_path_factory.mktemp("oracle") / "base"))
    rng = np.random.default_rng(0)
    prompts = [make_prompt(rng, [(56, 56)], [3, 4 + row]) for row in range(ROWS)]
    batch = batch_of(prompts, max(len(prompt.token_ids) for prompt in prompts))
    return policy, params, batch


def samplers(policy, layout: DecodeLayout):
    """Return the sampler of a mesh of 8 devices, and the pure functions that it jits."""
    # One id of fourteen ends an answer, so that lengths differ.
    pure = Sampler(policy, GROUP, TOKENS, tuple(range(0, 280, 14)), layout=layout)
    placement = Placement(make_mesh(MeshConfig(data=1, fsdp=8, tensor=1)))

    def jit(name, function, out_shardings, **options):
        def on_mesh(*arguments):
            with jax.sharding.use_abstract_mesh(placement.abstract_mesh):
                return function(*arguments)

        return Watched(name, on_mesh, out_shardings=out_shardings, **options)

    return make_block_sampler("sample", pure, placement, jit), pure, placement


def weights_on(placement: Placement, policy, params, layout: DecodeLayout) -> RolloutWeights:
    whole = jax.device_put(params, placement.replicated)
    return RolloutWeights(whole, jax.jit(lambda p: decode_weights(policy, p, layout))(whole))


@pytest.mark.parametrize("unrolled", [False, True], ids=["scanned", "unrolled"])
def test_blocks_equal_one_loop(sampled, unrolled):
    policy, params, batch = sampled
    layout = DecodeLayout(unrolled=unrolled)
    blocks, pure, placement = samplers(policy, layout)
    key, positions = jax.random.key(3), jnp.arange(ROWS)
    weights = weights_on(placement, policy, params, layout)
    alone = RolloutWeights(params, decode_weights(policy, params, layout))
    whole = jax.jit(pure.in_one_block)(*alone, batch, key, positions)
    lengths = np.asarray(whole.mask).sum(axis=-1)
    assert lengths.min() < 8 < 24 < lengths.max(), lengths
    on_mesh = placement.put_rows(jax.tree.map(np.asarray, batch))
    seen = []
    for block, bucket in ((5, 16), (40, 40), (1, 20)):
        short = dataclasses.replace(blocks, block_tokens=block, bucket_tokens=bucket)
        found = short(weights, on_mesh, key, placement.put_rows(positions), seen.append)
        for name in ("tokens", "mask", "finished"):
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name), name)
        # One device against eight, and a cache against its buckets: sums in another order.
        np.testing.assert_allclose(found.logprobs, whole.logprobs, rtol=TOL_COMPLEX)
    shares = [np.asarray(each.finished).mean() for each in seen]
    assert any(0 < share < 1 for share in shares), "watched while others are decoded"


def test_nothing_compiles_after_the_first_rollout(sampled):
    """The first completions may be short: every bucket is compiled all the same."""
    policy, params, batch = sampled
    layout = DecodeLayout()
    blocks, _, placement = samplers(policy, layout)
    weights = weights_on(placement, policy, params, layout)
    blocks = dataclasses.replace(blocks, block_tokens=4, bucket_tokens=20)
    on_mesh = placement.put_rows(jax.tree.map(np.asarray, batch))
    positions = placement.put_rows(jnp.arange(ROWS))
    compiled = []

    def listen(event: str, seconds: float, fun_name: str = "", **_) -> None:
        if event == COMPILE_EVENT:
            compiled.append(fun_name)

    monitoring.register_event_duration_secs_listener(listen)
    try:
        blocks(weights, on_mesh, jax.random.key(0), positions)
        assert compiled.count("jit(sample_block)") == len(steps_to(0, TOKENS, 20))
        compiled.clear()
        for seed in range(1, 4):
            blocks(weights, on_mesh, jax.random.key(seed), positions)
        assert compiled == []
    finally:
        monitoring.unregister_event_duration_listener(listen)

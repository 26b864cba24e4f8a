"""Packed completions against loops, autodiff of a plain gather, and whole scores of a policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import TOL_SIMPLE
from transformers_oracle import batch_of, make_oracle, make_prompt

from segr1_jax.config.schema import MeshConfig
from segr1_jax.policy.logprobs import score_tokens
from segr1_jax.policy.packing import packed
from segr1_jax.policy.params import Policy
from segr1_jax.policy.qwen2_5_vl.arch import arch_from_config
from segr1_jax.runtime.mesh import Placement, make_mesh

B, G, T, D = 8, 3, 7, 5
MOST = 13


def random_mask(seed: int) -> np.ndarray:
    """Completions of 0 to T tokens; the longest group has MOST, another one none."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 5, (B, G))
    lengths[0], lengths[1] = (7, 0, MOST - 7), 0
    return np.arange(T) < lengths[..., None]


def stream(x_BGT, mask_BGT, slots: int) -> np.ndarray:
    """The same as pack, by loops."""
    out = np.zeros((B, slots, *x_BGT.shape[3:]), x_BGT.dtype)
    for b in range(B):
        real = [x_BGT[b, g, t] for g in range(G) for t in range(T) if mask_BGT[b, g, t]]
        out[b, : len(real)] = np.array(real).reshape(-1, *x_BGT.shape[3:])
    return out


@pytest.mark.parametrize("slots", [MOST, MOST + 2])
def test_a_stream_has_the_real_tokens_in_order(slots):
    mask_BGT = random_mask(0)
    x_BGTD = np.random.default_rng(1).normal(size=(B, G, T, D)).astype(np.float32)
    packing = packed(jnp.asarray(mask_BGT), slots)
    found = packing.pack(jnp.asarray(x_BGTD))
    np.testing.assert_array_equal(found, stream(x_BGTD, mask_BGT, slots))
    np.testing.assert_array_equal(packing.pack(jnp.asarray(mask_BGT)).sum(1), mask_BGT.sum((1, 2)))
    np.testing.assert_array_equal(packing.unpack(found), x_BGTD * mask_BGT[..., None])


def test_all_slots_move_nothing():
    x_BGT = jnp.arange(B * G * T).reshape(B, G, T)
    packing = packed(jnp.asarray(random_mask(0)), G * T)
    np.testing.assert_array_equal(packing.pack(x_BGT), x_BGT.reshape(B, G * T))
    np.testing.assert_array_equal(packing.unpack(packing.pack(x_BGT)), x_BGT)


def test_derivatives_are_those_of_the_permutation():
    """Against the dense 0/1 matrix of the same map, by plain autodiff."""
    mask_BGT, rng = random_mask(2), np.random.default_rng(3)
    packing = packed(jnp.asarray(mask_BGT), MOST)
    flat = np.eye(G * T, dtype=np.float32).reshape(1, G, T, G * T)
    matrix_BSN = stream(np.broadcast_to(flat, (B, G, T, G * T)), mask_BGT, MOST)
    x_BGTD = rng.normal(size=(B, G, T, D)).astype(np.float32)
    y_BSD = rng.normal(size=(B, MOST, D)).astype(np.float32)

    def pack(x):
        return (packing.pack(x) ** 2 * y_BSD).sum()

    def pack_by_matrix(x):
        stream_BSD = jnp.einsum("bsn,bnd->bsd", matrix_BSN, x.reshape(B, G * T, D))
        return (stream_BSD**2 * y_BSD).sum()

    def unpack(y):
        return (packing.unpack(y) ** 2 * x_BGTD).sum()

    def unpack_by_matrix(y):
        tokens = jnp.einsum("bsn,bsd->bnd", matrix_BSN, y).reshape(B, G, T, D)
        return (tokens**2 * x_BGTD).sum()

    for one, other, at in ((pack, pack_by_matrix, x_BGTD), (unpack, unpack_by_matrix, y_BSD)):
        np.testing.assert_allclose(jax.grad(one)(at), jax.grad(other)(at), rtol=1e-6)


@pytest.fixture(scope="module")
def scoring():
    """(policy, weights, arguments of score_tokens) with 8 prompts."""
    policy = Policy(arch_from_config(make_oracle().config.to_dict()))
    rng = np.random.default_rng(0)
    prompts = batch_of([make_prompt(rng, [(56, 56)], [4, 6 + row]) for row in range(B)], 32)
    tokens_BGT = rng.integers(0, 280, (B, G, T)).astype(np.int32)
    return policy, policy.init(0), (prompts, tokens_BGT, random_mask(4))


def gradient_of(policy: Policy, slots: int | None):
    """(weights, arguments) -> log-probabilities, and the gradient of their weighted sum."""

    def objective(weights, prompts, tokens_BGT, mask_BGT):
        model = policy.bind(weights)
        scores = score_tokens(model, prompts, tokens_BGT, mask_BGT, chunk=2, slots=slots)
        return (scores.logprobs * jnp.sin(tokens_BGT)).sum(), scores

    return jax.jit(jax.grad(objective, has_aux=True))


def test_packed_scores_on_eight_devices_equal_padded_scores_on_one(scoring):
    policy, weights, arguments = scoring
    expected, scores = gradient_of(policy, None)(weights, *arguments)
    placement = Placement(make_mesh(MeshConfig(1, 8, 1)))
    on_mesh = placement.put_rows(arguments)
    function = gradient_of(policy, MOST)
    found, packed_scores = function(weights, *on_mesh)
    for one, other in zip(packed_scores, scores, strict=True):
        np.testing.assert_allclose(one, other, atol=TOL_SIMPLE)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=TOL_SIMPLE, err_msg=name)
    # Rows stay where they are: only gradients and weights cross devices.
    text = function.lower(weights, *on_mesh).compile().as_text()
    moved = [line for line in text.splitlines() if "all-gather" in line or "all-to-all" in line]
    assert not moved, moved[:3]

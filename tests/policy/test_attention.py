"""Every attention implementation against a brute-force softmax, values and gradients: grouped heads, padding on both sides, odd lengths.

cuDNN's call runs in its XLA form (it needs a GPU), splash interpreted (it needs a TPU): what is tested is what is ours, the folding of a
group into one sequence, masks, segments and padding to blocks.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import TOL_SIMPLE

from segr1_jax.policy import attention
from segr1_jax.policy.attention import Attention, KeyValues
from segr1_jax.policy.qwen2_5_vl.text import causal_mask

B, G, T, P, H, K, C = 2, 3, 5, 11, 4, 2, 8


@pytest.fixture(params=["xla", "cudnn", pytest.param("splash", marks=pytest.mark.slow)])
def kernel(request, monkeypatch):
    monkeypatch.setattr(attention, "CUDNN", "xla")
    return Attention(request.param)


def brute_force(q_NHC, k_SKC, v_SKC, seen_NS):
    """Ordinary attention of one sequence, head by head."""
    heads = []
    for head in range(q_NHC.shape[1]):
        group = head * k_SKC.shape[1] // q_NHC.shape[1]
        scores = jnp.where(seen_NS, q_NHC[:, head] @ k_SKC[:, group].T * C**-0.5, -jnp.inf)
        heads.append(jax.nn.softmax(scores, axis=-1) @ v_SKC[:, group])
    return jnp.stack(heads, axis=1)


def normal(seed: int, *shape: int):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def assert_same(ours, theirs, arguments) -> None:
    """Both return the outputs that are read; compared with the gradient of a weighted sum of them."""

    def total(function):
        return lambda *arguments: jnp.vdot(
            *(
                jnp.ravel(x)
                for x in (
                    function(*arguments),
                    normal(9, *jax.eval_shape(theirs, *arguments).shape),
                )
            )
        )

    np.testing.assert_allclose(
        jax.jit(ours)(*arguments), jax.jit(theirs)(*arguments), atol=TOL_SIMPLE
    )
    every = tuple(range(len(arguments)))
    gradients = (
        jax.jit(jax.grad(total(function), every))(*arguments) for function in (ours, theirs)
    )
    for found, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(found, expected, atol=TOL_SIMPLE)


def test_prefix(kernel):
    mask_BP = np.array([[False] * 2 + [True] * 9, [True] * 8 + [False] * 3])
    read = np.nonzero(mask_BP)

    def theirs(q, k, v):
        rows = [
            brute_force(q[b][mask], k[b][mask], v[b][mask], np.tri(mask.sum(), dtype=bool))
            for b, mask in enumerate(mask_BP)
        ]
        return jnp.concatenate(rows)

    arguments = normal(0, B, P, H, C), normal(1, B, P, K, C), normal(2, B, P, K, C)
    assert_same(
        lambda q, k, v: kernel.prefix(q, k, v, jnp.asarray(mask_BP))[read], theirs, arguments
    )


def test_group(kernel):
    mask_BP = np.array([[False] * 2 + [True] * 9, [True] * 8 + [False] * 3])
    lengths = np.array([[5, 1, 3], [2, 5, 4]])
    mask_BGT = np.arange(T) < lengths[..., None]

    def ours(q, k, v, own_k, own_v):
        shared = KeyValues(k, v, jnp.asarray(mask_BP)[:, None, None])
        own = KeyValues(own_k, own_v, causal_mask(jnp.asarray(mask_BGT)))
        return kernel.group(q, shared, own, jnp.asarray(mask_BGT))[np.nonzero(mask_BGT)]

    def theirs(q, k, v, own_k, own_v):
        rows = []
        for b, g in np.ndindex(B, G):
            length, prefix = lengths[b, g], mask_BP[b]
            keys, values = (
                jnp.concatenate([x[b][prefix], own[b, g, :length]])
                for x, own in ((k, own_k), (v, own_v))
            )
            seen = np.concatenate(
                [np.ones((length, prefix.sum()), bool), np.tri(length, dtype=bool)], axis=1
            )
            rows.append(brute_force(q[b, g, :length], keys, values, seen))
        return jnp.concatenate(rows)

    shapes = (B, G, T, H, C), (B, P, K, C), (B, P, K, C), (B, G, T, K, C), (B, G, T, K, C)
    assert_same(ours, theirs, tuple(normal(seed, *shape) for seed, shape in enumerate(shapes)))


def test_images(kernel):
    image_BN = np.array([[0, 0, -1, 1, 0, 1, 1, -1, 2, 2, 0], [0] * 7 + [-1] * 4])
    real = image_BN >= 0

    def theirs(q, k, v):
        rows = [
            brute_force(q[b], k[b], v[b], (image[:, None] == image))
            for b, image in enumerate(image_BN)
        ]
        return jnp.stack(rows)[np.nonzero(real)]

    arguments = tuple(normal(seed, B, P, H, C) for seed in range(3))
    assert_same(
        lambda q, k, v: kernel.images(q, k, v, jnp.asarray(image_BN))[np.nonzero(real)],
        theirs,
        arguments,
    )

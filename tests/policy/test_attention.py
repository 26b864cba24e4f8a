"""Every attention implementation against a brute-force softmax, values and gradients.

Grouped heads, padding and odd lengths. cuDNN's kernels are replaced by plain ones of the same
contract (they need a GPU) and splash is interpreted (it needs a TPU), so that what is tested is the
code around them: the merge, the folding of a group into one sequence, masks and segments.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_kernels import PLAIN
from tolerances import TOL_FLOAT64, TOL_SIMPLE

from segr1_jax.policy.attention import Attention
from segr1_jax.policy.fused_attention import attend_shared
from segr1_jax.policy.packing import packed

B, G, T, P, H, K, C = 2, 3, 5, 11, 4, 2, 8


@pytest.fixture(params=["xla", "cudnn", pytest.param("splash", marks=pytest.mark.slow)])
def kernel(request):
    return Attention(request.param, kernels=PLAIN)


def prefix_mask(kernel) -> np.ndarray:
    """Return real tokens of two prefixes; cuDNN takes padding on the right only."""
    left = 0 if kernel.implementation == "cudnn" else 2
    return np.array([[False] * left + [True] * 9 + [False] * (2 - left), [True] * 8 + [False] * 3])


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
    """Both return the outputs that are read.

    Compared with the gradient of a weighted sum of them.
    """

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
    mask_BP = prefix_mask(kernel)
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


@pytest.mark.parametrize("slots", [None, 12], ids=["padded", "packed"])
def test_group(kernel, slots):
    mask_BP = prefix_mask(kernel)
    lengths = np.array([[5, 1, 3], [2, 5, 4]])
    mask_BGT = np.arange(T) < lengths[..., None]

    masks = jnp.asarray(mask_BP), jnp.asarray(mask_BGT)
    packing = packed(masks[1], slots)

    def ours(q, k, v, own_k, own_v):
        q, own_k, own_v = map(packing.pack, (q, own_k, own_v))
        heads = kernel.group(q, k, v, own_k, own_v, *masks, packing)
        return packing.unpack(heads)[np.nonzero(mask_BGT)]

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


def test_windows(kernel):
    """Windows with padding between their patches; each row sees the patches of its own window."""
    mask_BS = np.array([[True, False, True, True], [True, True, False, False]])

    def theirs(q, k, v):
        rows = [
            brute_force(q[b][seen], k[b][seen], v[b][seen], np.ones((seen.sum(),) * 2, bool))
            for b, seen in enumerate(mask_BS)
        ]
        return jnp.concatenate(rows)

    def ours(q, k, v):
        mask_B1SS = jnp.broadcast_to(mask_BS[:, None, None], (B, 1, 4, 4))
        return kernel.masked(q, k, v, mask_B1SS)[np.nonzero(mask_BS)]

    assert_same(ours, theirs, tuple(normal(seed, B, 4, H, C) for seed in range(3)))


@pytest.mark.parametrize("slots", [None, 11], ids=["padded", "packed"])
def test_merged_gradient_in_float64(slots):
    """The backward passes of both parts, given the merged output and log-sum-exp, are exact."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        shapes = (B, G, T, H, C), (B, P, K, C), (B, P, K, C), (B, G, T, K, C), (B, G, T, K, C)
        arguments = [jnp.asarray(rng.normal(size=shape)) for shape in shapes]
        length_B = jnp.array([P, P - 3], jnp.int32)
        lengths_BG = np.full((B, G), T) if slots is None else np.array([[5, 1, 3], [2, 5, 4]])
        real_BGT = np.arange(T) < lengths_BG[..., None]
        weights = jnp.asarray(rng.normal(size=shapes[0])) * real_BGT[..., None, None]
        packing = packed(jnp.asarray(real_BGT), slots)

        def merged(q, k, v, own_k, own_v):
            q, own_k, own_v = map(packing.pack, (q, own_k, own_v))
            heads = attend_shared(PLAIN, q, k, v, own_k, own_v, length_B, packing)
            return jnp.vdot(weights, packing.unpack(heads))

        def whole(q, k, v, own_k, own_v):
            total = 0.0
            for b, g in np.ndindex(B, G):
                keys, values = (
                    jnp.concatenate([x[b, : length_B[b]], own[b, g]])
                    for x, own in ((k, own_k), (v, own_v))
                )
                seen = np.concatenate(
                    [np.ones((T, int(length_B[b])), bool), np.tri(T, dtype=bool)], 1
                )
                total += jnp.vdot(weights[b, g], brute_force(q[b, g], keys, values, seen))
            return total

        every = tuple(range(5))
        ours, theirs = (jax.grad(function, every)(*arguments) for function in (merged, whole))
        for found, expected in zip(ours, theirs, strict=True):
            assert found.dtype == jnp.float64
            np.testing.assert_allclose(found, expected, atol=TOL_FLOAT64)

"""Attention by a fused kernel, with derivatives of our own around it.

A kernel computes one softmax over one sequence of keys. A completion attends to two: the prefix of
its prompt, shared by the group, and its own tokens. The two parts are computed separately and
merged by their log-sum-exp. The backward pass of one part needs only two values that involve the
other part: the merged output o and the merged log-sum-exp l. For the score s of a key with value v,
and the cotangent g of o, the following holds for the softmax over all keys:

    p = exp(s - l)        d s = p (g . v - g . o)        d v = p g

So each backward kernel receives the merged o and l. Kernels drop the cotangent of their
log-sum-exp, which is why plain autodiff of the merge would be wrong.

Shape legend: B batch; G completions per prompt; T query tokens of one completion; P prefix tokens;
N query tokens of one sequence; S key tokens, or slots of a stream of completion tokens
(policy/packing.py); H query heads; K key/value heads; C head size.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from segr1_jax.policy.config import PRODUCT
from segr1_jax.policy.packing import Packing, Unpacked


class Visible(NamedTuple):
    """Keys that a query may see: all of them unless a field is set.

    Attributes:
        query_length, key_length: real tokens of each row, which come first.
        mask: True where a query sees a key.
    """

    query_length: Int[Array, " B"] | None = None
    key_length: Int[Array, " B"] | None = None
    mask: Bool[Array, "B 1 N S"] | None = None


class Kernels(NamedTuple):
    """Forward and backward pass of attention with one softmax; scores are scaled by C ** -0.5.

    Attributes:
        forward: (q [B, N, H, C], k [B, S, K, C], v, visible, causal) -> (out, log-sum-exp
            [B, H, N] in float32).
        backward: (q, k, v, visible, causal, log-sum-exp, out, cotangent of out) -> cotangents of q,
            k and v.
    """

    forward: Callable[..., tuple[Array, Array]]
    backward: Callable[..., tuple[Array, Array, Array]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attend_once(
    kernels: Kernels,
    causal: bool,
    q_BNHC: Float[Array, "B N H C"],
    k_BSKC: Float[Array, "B S K C"],
    v_BSKC: Float[Array, "B S K C"],
    visible: Visible,
) -> Float[Array, "B N H C"]:
    """Attend to one sequence of keys."""
    return kernels.forward(q_BNHC, k_BSKC, v_BSKC, visible, causal)[0]


def _once_forward(kernels: Kernels, causal: bool, q, k, v, visible: Visible):
    out, lse = _named(kernels.forward(q, k, v, visible, causal))
    return out, (q, k, v, visible, lse, out)


def _once_backward(kernels: Kernels, causal: bool, kept, cotangent):
    q, k, v, visible, lse, out = kept
    return *kernels.backward(q, k, v, visible, causal, lse, out, cotangent), None


attend_once.defvjp(_once_forward, _once_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_shared(
    kernels: Kernels,
    q_BSHC: Float[Array, "B S H C"],
    prefix_k: Float[Array, "B P K C"],
    prefix_v: Float[Array, "B P K C"],
    own_k: Float[Array, "B S K C"],
    own_v: Float[Array, "B S K C"],
    prefix_length: Int[Array, " B"],
    packing: Packing | Unpacked,
) -> Float[Array, "B S H C"]:
    """Attend from completions to their prefix and, causally, to their own tokens.

    Completions are a stream of tokens. All of them see the whole prefix, so that part is attention
    of one sequence, and only the other part needs the completions apart. The tokens of a completion
    come before its padding, so a real token never sees padding.
    """
    inputs = q_BSHC, prefix_k, prefix_v, own_k, own_v, prefix_length, packing
    return _shared_forward(kernels, *inputs)[0]


def _shared_forward(kernels: Kernels, q, prefix_k, prefix_v, own_k, own_v, length, packing):
    out_a, lse_a = kernels.forward(q, prefix_k, prefix_v, _prefix(q, length), False)
    own = (_rows(packing.unpack(x)) for x in (q, own_k, own_v))
    out_b, lse_b = kernels.forward(*own, Visible(), True)
    # Both as [B, S, H].
    lse_a, lse_b = jnp.moveaxis(lse_a, 1, 2), _stream(packing, jnp.moveaxis(lse_b, 1, 2))
    lse = jnp.logaddexp(lse_a, lse_b)
    share_a, share_b = (jnp.exp(part - lse)[..., None] for part in (lse_a, lse_b))
    out = (share_a * out_a + share_b * _stream(packing, out_b)).astype(q.dtype)
    out, lse = _named((out, lse))
    return out, (q, prefix_k, prefix_v, own_k, own_v, length, packing, lse, out)


def _shared_backward(kernels: Kernels, kept, cotangent):
    q, prefix_k, prefix_v, own_k, own_v, length, packing, lse, out = kept
    lse_BHS, visible = jnp.moveaxis(lse, 2, 1), _prefix(q, length)
    q_a, prefix_k_gradient, prefix_v_gradient = kernels.backward(
        q, prefix_k, prefix_v, visible, False, lse_BHS, out, cotangent
    )
    own = (_rows(packing.unpack(x)) for x in (q, own_k, own_v))
    lse_b = jnp.moveaxis(_rows(packing.unpack(lse)), 2, 1)
    merged = (_rows(packing.unpack(x)) for x in (out, cotangent))
    parts = kernels.backward(*own, Visible(), True, lse_b, *merged)
    q_b, own_k_gradient, own_v_gradient = (_stream(packing, part) for part in parts)
    return (
        q_a + q_b,
        prefix_k_gradient,
        prefix_v_gradient,
        own_k_gradient,
        own_v_gradient,
        None,
        None,
    )


attend_shared.defvjp(_shared_forward, _shared_backward)


def _prefix(q_BSHC: Array, prefix_length_B: Int[Array, " B"]) -> Visible:
    """Return what the completions of a group, as one sequence of queries, see of the prefix."""
    B, S = q_BSHC.shape[:2]
    return Visible(jnp.full((B,), S, jnp.int32), prefix_length_B)


def _named(values: tuple[Array, Array]) -> tuple[Array, Array]:
    """Name what the backward pass needs, so that `remat` may keep it."""
    return tuple(checkpoint_name(value, PRODUCT) for value in values)


def _rows(x_BGT: Array) -> Array:
    """Return the completions of all groups as rows of one batch."""
    return x_BGT.reshape(-1, *x_BGT.shape[2:])


def _stream(packing: Packing | Unpacked, rows: Array) -> Array:
    """Return the stream of the tokens of all groups; the inverse of `_rows` after `unpack`."""
    return packing.pack(rows.reshape(-1, packing.group, *rows.shape[1:]))

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
N query tokens of one sequence; S key tokens; H query heads; K key/value heads; C head size.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


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
    out, lse = kernels.forward(q, k, v, visible, causal)
    return out, (q, k, v, visible, lse, out)


def _once_backward(kernels: Kernels, causal: bool, kept, cotangent):
    q, k, v, visible, lse, out = kept
    return *kernels.backward(q, k, v, visible, causal, lse, out, cotangent), None


attend_once.defvjp(_once_forward, _once_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_shared(
    kernels: Kernels,
    q_BGTHC: Float[Array, "B G T H C"],
    prefix_k: Float[Array, "B P K C"],
    prefix_v: Float[Array, "B P K C"],
    own_k: Float[Array, "B G T K C"],
    own_v: Float[Array, "B G T K C"],
    prefix_length: Int[Array, " B"],
) -> Float[Array, "B G T H C"]:
    """Attend from completions to their prefix and, causally, to their own tokens.

    The tokens of a completion come before its padding, so a real token never sees padding.
    """
    return _shared_forward(kernels, q_BGTHC, prefix_k, prefix_v, own_k, own_v, prefix_length)[0]


def _shared_forward(kernels: Kernels, q, prefix_k, prefix_v, own_k, own_v, prefix_length):
    B, G, T, H, _ = q.shape
    prefix = _prefix_part(q, prefix_length)
    out_a, lse_a = kernels.forward(prefix.q, prefix_k, prefix_v, prefix.visible, False)
    out_b, lse_b = kernels.forward(_rows(q), _rows(own_k), _rows(own_v), Visible(), True)
    # Both as [B, G, T, H].
    lse_a = jnp.moveaxis(lse_a.reshape(B, H, G, T), 1, 3)
    lse_b = jnp.moveaxis(lse_b.reshape(B, G, H, T), 2, 3)
    lse = jnp.logaddexp(lse_a, lse_b)
    share_a, share_b = (jnp.exp(part - lse)[..., None] for part in (lse_a, lse_b))
    out = share_a * out_a.reshape(q.shape) + share_b * out_b.reshape(q.shape)
    out = out.astype(q.dtype)
    return out, (q, prefix_k, prefix_v, own_k, own_v, prefix_length, lse, out)


def _shared_backward(kernels: Kernels, kept, cotangent):
    q, prefix_k, prefix_v, own_k, own_v, prefix_length, lse, out = kept
    B, G, T, H, _ = q.shape
    prefix = _prefix_part(q, prefix_length)
    lse_a = jnp.moveaxis(lse, 3, 1).reshape(B, H, G * T)
    lse_b = jnp.moveaxis(lse, 3, 2).reshape(B * G, H, T)
    joined = (x.reshape(prefix.q.shape) for x in (out, cotangent))
    q_a, prefix_k_gradient, prefix_v_gradient = kernels.backward(
        prefix.q, prefix_k, prefix_v, prefix.visible, False, lse_a, *joined
    )
    q_b, own_k_gradient, own_v_gradient = kernels.backward(
        *map(_rows, (q, own_k, own_v)), Visible(), True, lse_b, *map(_rows, (out, cotangent))
    )
    return (
        q_a.reshape(q.shape) + q_b.reshape(q.shape),
        prefix_k_gradient,
        prefix_v_gradient,
        own_k_gradient.reshape(own_k.shape),
        own_v_gradient.reshape(own_v.shape),
        None,
    )


attend_shared.defvjp(_shared_forward, _shared_backward)


class _PrefixPart(NamedTuple):
    """The completions of a group as one sequence of queries, which all see the whole prefix."""

    q: Float[Array, "B N H C"]
    visible: Visible


def _prefix_part(q_BGTHC: Array, prefix_length_B: Int[Array, " B"]) -> _PrefixPart:
    B, G, T, H, C = q_BGTHC.shape
    query_length_B = jnp.full((B,), G * T, jnp.int32)
    return _PrefixPart(q_BGTHC.reshape(B, G * T, H, C), Visible(query_length_B, prefix_length_B))


def _rows(x_BGTHC: Array) -> Array:
    """Return the completions of all groups as rows of one batch."""
    return x_BGTHC.reshape(-1, *x_BGTHC.shape[2:])

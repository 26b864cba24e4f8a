"""Attention with one softmax in plain jnp, by the contract of policy/fused_attention.Kernels.

Forward and backward pass are written out, in the dtype of the inputs, so that the merge of two
parts can be checked in float64 on a CPU.

Shape legend: B batch; N query tokens; S key tokens; H query heads; K key/value heads; C head size.
"""

import jax.numpy as jnp

from segr1_jax.policy.fused_attention import Kernels, Visible


def _scores(q_BNHC, k_BSHC, visible: Visible, causal: bool):
    B, N, _, C = q_BNHC.shape
    S = k_BSHC.shape[1]
    scores_BHNS = jnp.einsum("bnhc,bshc->bhns", q_BNHC, k_BSHC) * C**-0.5
    seen_B1NS = jnp.ones((B, 1, N, S), bool)
    if causal:
        seen_B1NS &= jnp.tri(N, S, dtype=bool)
    if visible.key_length is not None:
        seen_B1NS &= (jnp.arange(S) < visible.key_length[:, None])[:, None, None]
    if visible.mask is not None:
        seen_B1NS &= visible.mask
    return jnp.where(seen_B1NS, scores_BHNS, -1e30)


def _repeated(x_BSKC, heads: int):
    return jnp.repeat(x_BSKC, heads // x_BSKC.shape[2], axis=2)


def forward(q, k, v, visible: Visible, causal: bool):
    """Return attention and log-sum-exp."""
    k, v = (_repeated(x, q.shape[2]) for x in (k, v))
    scores = _scores(q, k, visible, causal)
    top = scores.max(axis=-1, keepdims=True)
    lse = (top + jnp.log(jnp.exp(scores - top).sum(axis=-1, keepdims=True)))[..., 0]
    return jnp.einsum("bhns,bshc->bnhc", jnp.exp(scores - lse[..., None]), v), lse


def backward(q, k, v, visible: Visible, causal: bool, lse, out, cotangent):
    """Return the cotangents of q, k and v from the given log-sum-exp and output."""
    heads, kv_heads, scale = q.shape[2], k.shape[2], q.shape[-1] ** -0.5
    k_BSHC, v_BSHC = (_repeated(x, heads) for x in (k, v))
    p_BHNS = jnp.exp(_scores(q, k_BSHC, visible, causal) - lse[..., None])
    offset_BHN = jnp.einsum("bnhc,bnhc->bhn", cotangent, out)
    slope_BHNS = p_BHNS * (jnp.einsum("bnhc,bshc->bhns", cotangent, v_BSHC) - offset_BHN[..., None])

    def folded(x_BSHC):
        return x_BSHC.reshape(*x_BSHC.shape[:2], kv_heads, -1, x_BSHC.shape[-1]).sum(axis=3)

    return (
        jnp.einsum("bhns,bshc->bnhc", slope_BHNS, k_BSHC) * scale,
        folded(jnp.einsum("bhns,bnhc->bshc", slope_BHNS, q)) * scale,
        folded(jnp.einsum("bhns,bnhc->bshc", p_BHNS, cotangent)),
    )


PLAIN = Kernels(forward, backward)

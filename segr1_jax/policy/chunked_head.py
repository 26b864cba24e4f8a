"""The vocabulary projection of many tokens whose logits never exist at once: chunks of tokens forward, blocks of the vocabulary backward.

A chunk of tokens sees the whole vocabulary, so its log-sum-exp is at hand. With that kept, the gradient of a block of the vocabulary needs
no other block: its columns of the projection's gradient are written once. Over chunks of tokens that gradient, the largest array of the
update, would be read and added to in every chunk, and on a mesh reduced over the devices as often. (Blocks as in Wijmans et al., 2024,
"Cut Your Losses"; theirs also go forward by blocks.)

Shape legend: B prompts; G completions; T tokens; D hidden; V vocabulary; S devices that share it; L = V / S; W columns that a block has
of each share; K = S * W; Z chunks; C tokens of a chunk.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from segr1_jax.policy.batch_rows import split_rows
from segr1_jax.policy.mixed_precision import times
from segr1_jax.policy.sharding import TRAIN_RULES

Temperature = float | Float[Array, ""]
"""A fixed one, or a traced one where it changes from call to call."""


class Head(NamedTuple):
    """The settings of a projection: ids that are never sampled, temperature, tokens of each completion in a chunk."""

    banned: tuple[int, ...]
    temperature: float
    chunk: int


def tempered_logits(
    states: Float[Array, "... D"],
    kernel_DV: Float[Array, "D V"],
    banned: Sequence[int],
    temperature: Temperature,
) -> Float[Array, "... V"]:
    """Float32 logits over the temperature, -inf at `banned` ids."""
    logits = times(states, kernel_DV, jnp.float32)
    return logits.at[..., jnp.array(banned, jnp.int32)].set(-jnp.inf) / temperature


def token_logprobs(
    states: Float[Array, "... D"],
    kernel_DV: Float[Array, "D V"],
    tokens: Int[Array, "..."],
    head: Head,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """(log-probability of each token, entropy in nats of its distribution, which has no gradient), all logits at once."""
    logp = jax.nn.log_softmax(
        tempered_logits(states, kernel_DV, head.banned, head.temperature), axis=-1
    )
    entropy = -jnp.sum(jnp.where(jnp.isfinite(logp), jnp.exp(logp) * logp, 0.0), axis=-1)
    return jnp.take_along_axis(logp, tokens[..., None], axis=-1)[..., 0], jax.lax.stop_gradient(
        entropy
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def chunked_logprobs(
    states_BGTD: Float[Array, "B G T D"],
    kernel_DV: Float[Array, "D V"],
    tokens_BGT: Int[Array, "B G T"],
    head: Head,
) -> tuple[Float[Array, "B G T"], Float[Array, "B G T"]]:
    """The same as `token_logprobs`, in memory for `head.chunk` tokens of each completion."""
    return _forward(states_BGTD, kernel_DV, tokens_BGT, head)[0]


def _forward(states_BGTD, kernel_DV, tokens_BGT, head: Head):
    """((log-probabilities, entropy), log-sum-exp of the logits)."""

    def one(inputs):
        states_BGCD, tokens_BGC = inputs
        total = jax.nn.logsumexp(
            tempered_logits(states_BGCD, kernel_DV, head.banned, head.temperature), axis=-1
        )
        return token_logprobs(
            states_BGCD, kernel_DV, tokens_BGC, head
        ), total  # the compiler sees that the logits are the same

    parts = jax.lax.map(one, (_split(states_BGTD, head.chunk), _split(tokens_BGT, head.chunk)))
    return jax.tree.map(lambda part: _join(part, tokens_BGT.shape[-1]), parts)


def _forward_keeping(states, kernel, tokens, head: Head):
    scores, total_BGT = _forward(states.value, kernel.value, tokens.value, head)
    trained = (
        () if kernel.perturbed else None
    )  # a frozen projection, as adapters have it, gets no gradient
    return scores, (states.value, kernel.value, tokens.value, total_BGT, trained)


@jax.named_scope("head")
def _backward(head: Head, kept, cotangents):
    """d logp / d logit_v = ([v is the token] - p_v) / temperature, block by block; as many blocks as there were chunks."""
    states_BGTD, kernel_DV, tokens_BGT, total_BGT, trained = kept
    slope_BGT = cotangents[0] / head.temperature
    D, V = kernel_DV.shape
    S = _shares(V)
    L, blocks = V // S, math.ceil(tokens_BGT.shape[-1] / head.chunk)
    width = math.ceil(L / blocks)
    kernel = (
        kernel_DV.reshape(D, S, L) if S > 1 else kernel_DV
    )  # an axis of size 1 would cost a copy: it unsettles the compiler's layouts

    allowed_V = _allowed(V, head.banned)

    def one(index, gradients):
        states_gradient_BGTD, kernel_gradient = gradients
        start = jnp.minimum(index * width, L - width)  # the last block may overlap the one before
        column_SW = jnp.broadcast_to(start + jnp.arange(width), (S, width))
        id_K = (jnp.arange(S)[:, None] * L + column_SW).reshape(-1)
        new_K = (column_SW >= index * width).reshape(-1)
        kernel_DK = (
            jax.lax.dynamic_slice_in_dim(kernel, start, width, axis=-1)
            .reshape(D, -1)
            .astype(states_BGTD.dtype)
        )
        logits_BGTK = jnp.einsum(
            "bgtd,dk->bgtk", states_BGTD, kernel_DK, preferred_element_type=jnp.float32
        )
        p_BGTK = jnp.exp(logits_BGTK / head.temperature - total_BGT[..., None])
        slope_BGTK = slope_BGT[..., None] * ((id_K == tokens_BGT[..., None]) - p_BGTK)
        slope_BGTK = jnp.where(allowed_V[id_K], slope_BGTK, 0.0).astype(states_BGTD.dtype)
        states_gradient_BGTD += jnp.einsum(
            "bgtk,dk->bgtd",
            jnp.where(new_K, slope_BGTK, 0),
            kernel_DK,
            preferred_element_type=jnp.float32,
        )
        if trained is not None:
            part_DK = jnp.einsum(
                "bgtd,bgtk->dk", states_BGTD, slope_BGTK, preferred_element_type=jnp.float32
            )
            part = part_DK.astype(kernel_DV.dtype).reshape(*kernel.shape[:-1], width)
            kernel_gradient = jax.lax.dynamic_update_slice_in_dim(
                kernel_gradient, part, start, axis=-1
            )
        return split_rows(states_gradient_BGTD), kernel_gradient

    begin = (
        split_rows(jnp.zeros(states_BGTD.shape, jnp.float32)),
        None if trained is None else jnp.zeros_like(kernel),
    )
    states_gradient_BGTD, kernel_gradient = jax.lax.fori_loop(0, blocks, one, begin)
    kernel_gradient_DV = None if trained is None else kernel_gradient.reshape(D, V)
    return states_gradient_BGTD.astype(states_BGTD.dtype), kernel_gradient_DV, None


chunked_logprobs.defvjp(_forward_keeping, _backward, symbolic_zeros=True)


def _allowed(vocabulary: int, banned: Sequence[int]) -> Bool[Array, " V"]:
    allowed_V = np.ones(vocabulary, bool)
    allowed_V[list(banned)] = False
    return jnp.asarray(allowed_V)


def _shares(vocabulary: int) -> int:
    """Over how many devices the mesh around this trace splits the vocabulary: a block takes columns of each, so none are moved."""
    mesh, axis = jax.sharding.get_abstract_mesh(), TRAIN_RULES["vocab"]
    size = 1 if mesh.empty else mesh.shape[axis]
    return (
        size if vocabulary % size == 0 else 1
    )  # else the weight is whole on every device (policy/sharding.py)


def _split(x: Array, chunk: int) -> Array:
    """[B, G, T, ...] -> [Z, B, G, C, ...], padded with zeros to whole chunks."""
    whole = jnp.pad(x, [(0, -x.shape[2] % chunk if axis == 2 else 0) for axis in range(x.ndim)])
    return jnp.moveaxis(whole.reshape(*x.shape[:2], -1, chunk, *x.shape[3:]), 2, 0)


def _join(parts_ZBGC: Float[Array, "Z B G C"], length: int) -> Float[Array, "B G T"]:
    return jnp.moveaxis(parts_ZBGC, 0, 2).reshape(*parts_ZBGC.shape[1:3], -1)[:, :, :length]

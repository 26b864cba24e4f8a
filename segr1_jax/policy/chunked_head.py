"""Vocabulary projection of many tokens, without ever holding all of their logits.

The forward pass goes over chunks of tokens, the backward pass over blocks of the vocabulary. A
chunk of tokens sees the whole vocabulary, so the forward pass can keep each token's log-sum-exp.
Given the log-sum-exp, the gradient of one vocabulary block does not depend on other blocks, so each
column of the projection's gradient is written once. A backward pass over chunks of tokens would
read and update this gradient, the largest array of the update, once per chunk, and on a mesh reduce
it over the devices once per chunk. Wijmans et al. (2024, "Cut Your Losses") use blocks in both
passes.

Shape legend: B prompts; G completions; T tokens; D hidden; V vocabulary; S shares of the
vocabulary, one per device that holds a part of it; L = V / S; W columns that a block has of each
share; K = S * W; Z chunks; C tokens of a chunk.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from segr1_jax.policy.batch_rows import split_rows
from segr1_jax.policy.mixed_precision import times
from segr1_jax.policy.sharding import TRAIN_RULES

Temperature = float | Float[Array, ""]
"""A Python number, or a traced array where the temperature changes from call to call."""


class Head(NamedTuple):
    """Settings of a projection.

    Attributes:
        banned: ids that are never sampled.
        temperature: logits are divided by it.
        chunk: tokens of each completion in a chunk.
    """

    banned: tuple[int, ...]
    temperature: float
    chunk: int


def tempered_logits(
    states: Float[Array, "... D"],
    kernel_DV: Float[Array, "D V"],
    banned: Sequence[int],
    temperature: Temperature,
) -> Float[Array, "... V"]:
    """Return the float32 logits divided by the temperature, -inf at `banned` ids."""
    logits = times(states, kernel_DV, jnp.float32)
    # Use a select here, because a scatter would copy the logits.
    allowed_V = _allowed(kernel_DV.shape[1], banned)
    return jnp.where(allowed_V, logits, -jnp.inf) / temperature


def token_logprobs(
    states: Float[Array, "... D"],
    kernel_DV: Float[Array, "D V"],
    tokens: Int[Array, "..."],
    head: Head,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return the log-probability of each token and the entropy (nats) of its distribution.

    All logits are held at once. The entropy has no gradient.
    """
    logits = tempered_logits(states, kernel_DV, head.banned, head.temperature)
    logp = jax.nn.log_softmax(logits, axis=-1)
    # Banned ids have probability 0 and logp -inf, whose product would be NaN.
    entropy = -jnp.sum(jnp.where(jnp.isfinite(logp), jnp.exp(logp) * logp, 0.0), axis=-1)
    chosen = jnp.take_along_axis(logp, tokens[..., None], axis=-1)[..., 0]
    return chosen, jax.lax.stop_gradient(entropy)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def chunked_logprobs(
    states_BGTD: Float[Array, "B G T D"],
    kernel_DV: Float[Array, "D V"],
    tokens_BGT: Int[Array, "B G T"],
    head: Head,
) -> tuple[Float[Array, "B G T"], Float[Array, "B G T"]]:
    """Return what `token_logprobs` does, holding the logits of `head.chunk` tokens at a time."""
    whole_DV = _whole(kernel_DV, states_BGTD.dtype)
    return _forward(states_BGTD, whole_DV, tokens_BGT, head)[0]


def _forward(states_BGTD, kernel_DV, tokens_BGT, head: Head):
    """Return ((log-probabilities, entropy), log-sum-exp of the logits), one chunk at a time."""

    def one_chunk(inputs):
        states_BGCD, tokens_BGC = inputs
        # token_logprobs computes the same logits; the compiler merges the two.
        logits_BGCV = tempered_logits(states_BGCD, kernel_DV, head.banned, head.temperature)
        total_BGC = jax.nn.logsumexp(logits_BGCV, axis=-1)
        return token_logprobs(states_BGCD, kernel_DV, tokens_BGC, head), total_BGC

    chunks = (_split(states_BGTD, head.chunk), _split(tokens_BGT, head.chunk))
    parts = jax.lax.map(one_chunk, chunks)
    return jax.tree.map(lambda part: _join(part, tokens_BGT.shape[-1]), parts)


def _forward_keeping(states, kernel, tokens, head: Head):
    """Forward pass of the custom derivative: the scores, and what the backward pass needs."""
    whole_DV = _whole(kernel.value, states.value.dtype)
    scores, total_BGT = _forward(states.value, whole_DV, tokens.value, head)
    # A frozen projection, as in a LoRA run, gets no gradient. The flag is an empty tuple or None
    # because what is kept must be a pytree of arrays.
    trained = () if kernel.perturbed else None
    # The backward pass follows at once, and takes the gathered projection as it is.
    return scores, (states.value, kernel.value, whole_DV, tokens.value, total_BGT, trained)


class _Blocks(NamedTuple):
    """Partition of the vocabulary into `count` blocks, each with `width` columns of every share.

    The vocabulary is `shares` ranges of `share` ids, one range per device that holds a part of the
    projection. A block takes columns of all ranges, so no column moves between devices.
    """

    shares: int
    share: int
    width: int
    count: int

    def columns(self, index: Int[Array, ""]):
        """Return the first column of block `index` in each share, its ids, and which are new."""
        # All blocks have one width, so the last ones may start early and repeat columns.
        start = jnp.minimum(index * self.width, self.share - self.width)
        column_SW = jnp.broadcast_to(start + jnp.arange(self.width), (self.shares, self.width))
        id_K = (jnp.arange(self.shares)[:, None] * self.share + column_SW).reshape(-1)
        is_new_K = (column_SW >= index * self.width).reshape(-1)
        return start, id_K, is_new_K


def _make_blocks(vocabulary: int, tokens: int, chunk: int) -> _Blocks:
    # As many blocks as the forward pass has chunks: the logits of a block, of all tokens, take
    # about as much memory as the logits of a chunk, over the whole vocabulary.
    shares = _shares(vocabulary)
    share = vocabulary // shares
    count = math.ceil(tokens / chunk)
    return _Blocks(shares=shares, share=share, width=math.ceil(share / count), count=count)


# The backward pass. For one token y with state h and cotangent g of its log-probability:
#
#     logits_v = h . kernel_v / temperature        logp = logits_y - logsumexp(logits)
#     d logp / d (h . kernel_v) = ([v == y] - p_v) / temperature,    p_v = exp(logits_v - logsumexp)
#
# The forward pass keeps the log-sum-exp of each token, so p of any block of columns follows from
# the logits of that block alone. With s_v = g ([v == y] - p_v) / temperature:
#
#     gradient of h         sum over v of s_v kernel_v     accumulated in float32 over the blocks
#     gradient of kernel_v  sum over tokens of s_v h       written once, by the block that holds v
#
# Banned ids have the logit -inf in the forward pass and hence s_v = 0. The entropy has no gradient.
@jax.named_scope("head")
def _backward(head: Head, kept, cotangents):
    """Return the gradients of states and projection, and None for the tokens."""
    states_BGTD, kernel_DV, whole_DV, tokens_BGT, total_BGT, trained = kept
    scale_BGT = cotangents[0] / head.temperature
    D, V = kernel_DV.shape
    blocks = _make_blocks(V, tokens_BGT.shape[-1], head.chunk)
    # Without shares the axis is left out: an axis of size 1 changes the layouts that the compiler
    # chooses, at the cost of a copy.
    kernel = whole_DV.reshape(D, blocks.shares, -1) if blocks.shares > 1 else whole_DV
    allowed_V = _allowed(V, head.banned)

    def add_block(index, gradients):
        states_gradient_BGTD, kernel_gradient = gradients
        start, id_K, is_new_K = blocks.columns(index)
        block = jax.lax.dynamic_slice_in_dim(kernel, start, blocks.width, axis=-1)
        kernel_DK = block.reshape(D, -1)
        logits_BGTK = _product("bgtd,dk->bgtk", states_BGTD, kernel_DK)
        p_BGTK = jnp.exp(logits_BGTK / head.temperature - total_BGT[..., None])
        slope_BGTK = scale_BGT[..., None] * ((id_K == tokens_BGT[..., None]) - p_BGTK)
        slope_BGTK = jnp.where(allowed_V[id_K], slope_BGTK, 0.0).astype(states_BGTD.dtype)
        # Repeated columns must not count twice in this sum. In the kernel's gradient they are
        # overwritten with the values that they have.
        new_BGTK = jnp.where(is_new_K, slope_BGTK, 0)
        states_gradient_BGTD += _product("bgtk,dk->bgtd", new_BGTK, kernel_DK)
        if trained is not None:
            part_DK = _product("bgtd,bgtk->dk", states_BGTD, slope_BGTK)
            part = part_DK.astype(kernel_DV.dtype).reshape(*kernel.shape[:-1], blocks.width)
            kernel_gradient = jax.lax.dynamic_update_slice_in_dim(
                kernel_gradient, part, start, axis=-1
            )
        return split_rows(states_gradient_BGTD), kernel_gradient

    zeros = (
        split_rows(jnp.zeros(states_BGTD.shape, jnp.float32)),
        None if trained is None else jnp.zeros(kernel.shape, kernel_DV.dtype),
    )
    states_gradient_BGTD, kernel_gradient = jax.lax.fori_loop(0, blocks.count, add_block, zeros)
    kernel_gradient_DV = None if trained is None else kernel_gradient.reshape(D, V)
    return states_gradient_BGTD.astype(states_BGTD.dtype), kernel_gradient_DV, None


def _product(equation: str, left: Array, right: Array) -> Array:
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.float32)


chunked_logprobs.defvjp(_forward_keeping, _backward, symbolic_zeros=True)


def _whole(kernel_DV: Float[Array, "D V"], dtype: DTypeLike) -> Float[Array, "D V"]:
    """Return the projection in `dtype`, gathered: once for all chunks, not again in each."""
    kernel_DV = kernel_DV.astype(dtype)
    if jax.sharding.get_abstract_mesh().empty:
        return kernel_DV
    vocabulary = TRAIN_RULES["vocab"] if _shares(kernel_DV.shape[1]) > 1 else None
    return jax.lax.with_sharding_constraint(kernel_DV, PartitionSpec(None, vocabulary))


def _allowed(vocabulary: int, banned: Sequence[int]) -> Bool[Array, " V"]:
    allowed_V = np.ones(vocabulary, bool)
    allowed_V[list(banned)] = False
    return jnp.asarray(allowed_V)


def _shares(vocabulary: int) -> int:
    """Return the number of devices over which the current mesh splits the vocabulary."""
    mesh = jax.sharding.get_abstract_mesh()
    size = 1 if mesh.empty else mesh.shape[TRAIN_RULES["vocab"]]
    # An axis that the mesh does not divide is whole on every device (policy/sharding.py).
    return size if vocabulary % size == 0 else 1


def _split(x: Array, chunk: int) -> Array:
    """Reshape [B, G, T, ...] to [Z, B, G, C, ...], padded with zeros to whole chunks."""
    whole = jnp.pad(x, [(0, -x.shape[2] % chunk if axis == 2 else 0) for axis in range(x.ndim)])
    return jnp.moveaxis(whole.reshape(*x.shape[:2], -1, chunk, *x.shape[3:]), 2, 0)


def _join(parts_ZBGC: Float[Array, "Z B G C"], length: int) -> Float[Array, "B G T"]:
    """Undo `_split` for one number per token."""
    return jnp.moveaxis(parts_ZBGC, 0, 2).reshape(*parts_ZBGC.shape[1:3], -1)[:, :, :length]

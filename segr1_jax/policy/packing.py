"""The real tokens of the completions of a group as one stream, without the padding between them.

Completions are [G, T], each with its padding behind it. The maps of a layer and the vocabulary
projection treat tokens alike, so they run over a stream of S slots that holds the real tokens of
all G completions, one completion after another, and its own padding at the end. Attention and
losses need completions apart, and see [G, T] again.

Shape legend: B prompts; G completions per prompt; T completion tokens; S slots of the stream.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped


class Packing(NamedTuple):
    """Places of completion tokens in a stream of slots.

    `slot_BGT` and `token_BS` are inverse to each other where the masks are True: token (g, t) is in
    slot `slot_BGT[b, g, t]`, and slot s holds token g * T + t = `token_BS[b, s]`.
    """

    slot_BGT: Int[Array, "B G T"]
    is_token_BGT: Bool[Array, "B G T"]
    token_BS: Int[Array, "B S"]
    is_filled_BS: Bool[Array, "B S"]

    @property
    def group(self) -> int:
        """Completions per prompt."""
        return self.slot_BGT.shape[1]

    def pack(self, x: Shaped[Array, "B G T *rest"]) -> Shaped[Array, "B S *rest"]:
        """Return the stream of the tokens of `x`, with zeros in empty slots."""
        B, G, T = self.slot_BGT.shape
        flat = x.reshape(B, G * T, *x.shape[3:])
        return _move(flat, self.token_BS, self.is_filled_BS, *self._flat_slots())

    def unpack(self, x: Shaped[Array, "B S *rest"]) -> Shaped[Array, "B G T *rest"]:
        """Return the tokens of a stream by completion, with zeros for padding."""
        flat = _move(x, *self._flat_slots(), self.token_BS, self.is_filled_BS)
        return flat.reshape(*self.slot_BGT.shape, *x.shape[2:])

    def _flat_slots(self) -> tuple[Array, Array]:
        B = len(self.slot_BGT)
        return self.slot_BGT.reshape(B, -1), self.is_token_BGT.reshape(B, -1)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Unpacked:
    """A stream of all G * T tokens, padding included: nothing moves."""

    group: int
    length: int

    def pack(self, x: Shaped[Array, "B G T *rest"]) -> Shaped[Array, "B S *rest"]:
        """Return the stream of the tokens of `x`."""
        return x.reshape(len(x), self.group * self.length, *x.shape[3:])

    def unpack(self, x: Shaped[Array, "B S *rest"]) -> Shaped[Array, "B G T *rest"]:
        """Return the tokens of a stream by completion."""
        return x.reshape(len(x), self.group, self.length, *x.shape[2:])


def packed(mask_BGT: Bool[Array, "B G T"], slots: int | None = None) -> Packing | Unpacked:
    """Return the places of the real tokens in a stream of `slots`, by default of all tokens.

    No group may have more real tokens than `slots`: those beyond it would be lost.
    """
    B, G, T = mask_BGT.shape
    if slots is None or slots >= G * T:
        return Unpacked(G, T)
    mask_BN = mask_BGT.reshape(B, G * T)
    # A stable sort keeps the order of the real tokens and moves them before the padding.
    token_BS = jnp.argsort(~mask_BN, axis=1, stable=True)[:, :slots]
    slot_BN = jnp.minimum(jnp.cumsum(mask_BN, axis=1) - 1, slots - 1)
    is_filled_BS = jnp.arange(slots) < mask_BN.sum(axis=1, keepdims=True)
    return Packing(jnp.maximum(slot_BN, 0).reshape(B, G, T), mask_BGT, token_BS, is_filled_BS)


@jax.custom_vjp
def _move(x_BN, source_BM, present_BM, target_BN, present_BN):
    """Return y with y[b, m] = x[b, source[b, m]] where present, else 0.

    `target_BN` and `present_BN` describe the inverse. With them the derivative is a gather too: the
    derivative of a gather would be a scatter, which is slow on GPUs and adds in no fixed order.
    """
    return _gather(x_BN, source_BM, present_BM)


def _move_forward(x_BN, source_BM, present_BM, target_BN, present_BN):
    return _gather(x_BN, source_BM, present_BM), (target_BN, present_BN)


def _move_backward(inverse, cotangent_BM):
    return _gather(cotangent_BM, *inverse), None, None, None, None


_move.defvjp(_move_forward, _move_backward)


def _gather(x_BN, source_BM, present_BM):
    shape = (*source_BM.shape, *[1] * (x_BN.ndim - 2))
    taken = jnp.take_along_axis(x_BN, source_BM.reshape(shape), axis=1, mode="promise_in_bounds")
    return jnp.where(present_BM.reshape(shape), taken, jnp.zeros_like(taken))

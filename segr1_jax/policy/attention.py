"""Attention: one softmax over several K/V segments, and three implementations for training.

Training has four patterns of attention: the prefix of a prompt to itself (causal), the completions
of a group to the shared prefix and each to itself, the patches of an image to each other, and the
patches of a window. `xla` computes all of them with `attend`. `cudnn` computes attention over the
prefix and over a completion's own tokens separately and merges the results
(policy/fused_attention.py). `splash` takes one query sequence and one key sequence with a static
mask and segments: `Attention.group` joins the completions of a group into one sequence of G x T
queries over P + G x T keys, and `group_mask` keeps the completions apart. Every implementation
takes ONE softmax over the keys of the prefix and of the completion.

A mask is over keys and says which of them a query may see. Masks know slots, not positions: rotary
positions are already applied to queries and keys when they arrive here.

Shape legend: B batch; G completions per prompt; T query tokens of one completion; P prefix tokens;
S key tokens, or slots of a stream of completion tokens (policy/packing.py); N query tokens of one
sequence; H query heads; K key/value heads; R = H / K query heads per key head; C head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from segr1_jax.policy.cudnn_attention import CUDNN
from segr1_jax.policy.fused_attention import Kernels, Visible, attend_once, attend_shared
from segr1_jax.policy.packing import Packing, Unpacked
from segr1_jax.policy.splash_attention import splash_attention

# The score of a masked key. It is finite, so that a row without any key has no NaN; the output of
# such a row is never read.
MASKED = float(jnp.finfo(jnp.float32).min)


class KeyValues(NamedTuple):
    """Rotated keys, values, and a mask of the slots that a query may see.

    `k` and `v` are [B, S, K, C], shared by all completions of a prompt, or [B, G, S, K, C], one per
    completion. `mask` broadcasts to [B, G, T, S]: it is False for padding and for later tokens.
    """

    k: Float[Array, "B *G S K C"]
    v: Float[Array, "B *G S K C"]
    mask: Bool[Array, "B #G #T S"]


@dataclass(frozen=True)
class Attention:
    """Attention in training: `xla` (anywhere), `cudnn` (NVIDIA GPUs, bfloat16), `splash` (TPUs)."""

    implementation: str = "xla"
    kernels: Kernels = CUDNN

    def prefix(
        self,
        q_BPHC: Float[Array, "B P H C"],
        k_BPKC: Float[Array, "B P K C"],
        v_BPKC: Float[Array, "B P K C"],
        mask_BP: Bool[Array, "B P"],
    ) -> Float[Array, "B P H C"]:
        """Attend causally from the tokens of a prefix to its real tokens.

        Causality is by slot. That is right with padding on either side, because real tokens keep
        their order and the mask hides the padding. `cudnn` takes padding on the right only.
        """
        if self.implementation == "cudnn":
            length_B = mask_BP.sum(axis=1, dtype=jnp.int32)
            visible = Visible(length_B, length_B)
            return attend_once(self.kernels, True, q_BPHC, k_BPKC, v_BPKC, visible)
        P = mask_BP.shape[1]
        causal_PP = np.tri(P, dtype=bool)
        if self.implementation == "xla":
            # A prefix is a group of one completion.
            q_B1PHC = q_BPHC[:, None]
            seen_BPP = causal_PP & mask_BP[:, None]
            return attend(q_B1PHC, [KeyValues(k_BPKC, v_BPKC, seen_BPP[:, None])])[:, 0]
        # Segment 1 holds all queries and the real keys, segment 0 the padded keys.
        query_segments_BP = jnp.ones_like(mask_BP, jnp.int32)
        key_segments_BP = mask_BP.astype(jnp.int32)
        return splash_attention(
            q_BPHC, k_BPKC, v_BPKC, causal_PP, query_segments_BP, key_segments_BP
        )

    def group(
        self,
        q_BSHC: Float[Array, "B S H C"],
        prefix_k: Float[Array, "B P K C"],
        prefix_v: Float[Array, "B P K C"],
        own_k: Float[Array, "B S K C"],
        own_v: Float[Array, "B S K C"],
        prefix_mask_BP: Bool[Array, "B P"],
        mask_BGT: Bool[Array, "B G T"],
        packing: Packing | Unpacked,
    ) -> Float[Array, "B S H C"]:
        """Attend from completions to the shared prefix and, causally, to their own real tokens.

        Completions are a stream of tokens; `mask_BGT` marks the real ones.
        """
        if self.implementation == "cudnn":
            length_B = prefix_mask_BP.sum(axis=1, dtype=jnp.int32)
            return attend_shared(
                self.kernels, q_BSHC, prefix_k, prefix_v, own_k, own_v, length_B, packing
            )
        q_BGTHC, own_k, own_v = map(packing.unpack, (q_BSHC, own_k, own_v))
        if self.implementation == "xla":
            shared = KeyValues(prefix_k, prefix_v, prefix_mask_BP[:, None, None])
            own = KeyValues(own_k, own_v, causal_mask(mask_BGT))
            return packing.pack(attend(q_BGTHC, [shared, own]))
        # Join the G completions into one sequence. The static mask keeps them apart; segment 1
        # holds all queries and the real keys, segment 0 the padded keys of prefix and completions.
        B, G, T, H, C = q_BGTHC.shape
        k, v = (
            jnp.concatenate([prefix, own.reshape(B, G * T, *own.shape[3:])], axis=1)
            for prefix, own in ((prefix_k, own_k), (prefix_v, own_v))
        )
        is_real_BS = jnp.concatenate([prefix_mask_BP, mask_BGT.reshape(B, G * T)], axis=1)
        key_segments_BS = is_real_BS.astype(jnp.int32)
        query_segments_BN = jnp.ones((B, G * T), jnp.int32)
        q_BNHC = q_BGTHC.reshape(B, G * T, H, C)
        mask_NS = group_mask(prefix_k.shape[1], G, T)
        out = splash_attention(q_BNHC, k, v, mask_NS, query_segments_BN, key_segments_BS)
        return packing.pack(out.reshape(B, G, T, H, C))

    def images(
        self,
        q_BNHC: Float[Array, "B N H C"],
        k_BNHC: Float[Array, "B N H C"],
        v_BNHC: Float[Array, "B N H C"],
        image_BN: Int[Array, "B N"],
    ) -> Float[Array, "B N H C"]:
        """Attend from patches to the patches of the same image.

        `image_BN` is the number of a patch's image, -1 for padding.
        """
        if self.implementation != "splash":
            same_BNN = (image_BN[:, :, None] == image_BN[:, None, :]) & (image_BN >= 0)[:, None]
            return self.masked(q_BNHC, k_BNHC, v_BNHC, same_BNN[:, None])
        # Here padding attends to padding: its rows have keys, and their output is never read.
        N = image_BN.shape[1]
        everything_NN = np.ones((N, N), bool)
        return splash_attention(q_BNHC, k_BNHC, v_BNHC, everything_NN, image_BN, image_BN)

    def masked(
        self,
        q_BNHC: Float[Array, "B N H C"],
        k_BSKC: Float[Array, "B S K C"],
        v_BSKC: Float[Array, "B S K C"],
        mask_B1NS: Bool[Array, "B 1 N S"],
    ) -> Float[Array, "B N H C"]:
        """Attend where the mask is True."""
        if self.implementation == "cudnn":
            visible = Visible(mask=mask_B1NS)
            return attend_once(self.kernels, False, q_BNHC, k_BSKC, v_BSKC, visible)
        return attend(q_BNHC[:, None], [KeyValues(k_BSKC, v_BSKC, mask_B1NS)])[:, 0]


def causal_mask(mask_BGT: Bool[Array, "B G T"]) -> Bool[Array, "B G T T"]:
    """Return the mask in which token t (rows) sees the real tokens at or before t (columns)."""
    T = mask_BGT.shape[-1]
    return jnp.tril(jnp.ones((T, T), bool)) & mask_BGT[:, :, None, :]


def group_mask(P: int, G: int, T: int) -> Bool[np.ndarray, "N S"]:
    """Return the mask of G * T queries over P + G * T keys, for a group joined into one sequence.

    A query sees the whole prefix, and the tokens of its own completion up to and including itself.

    Example:
        >>> group_mask(1, 2, 2).astype(int)
        array([[1, 1, 0, 0, 0],
               [1, 1, 1, 0, 0],
               [1, 0, 0, 1, 0],
               [1, 0, 0, 1, 1]])
    """
    own_NN = np.kron(np.eye(G, dtype=bool), np.tri(T, dtype=bool))
    return np.concatenate([np.ones((G * T, P), bool), own_NN], axis=1)


def attend(
    q_BGTHC: Float[Array, "B G T H C"], segments: Sequence[KeyValues]
) -> Float[Array, "B G T H C"]:
    """Attend to the keys of all segments with one softmax, without repeating a shared segment.

    This is ordinary attention over the concatenated keys, so plain autodiff is exact. Only the
    scores are concatenated: keys and values of a shared segment stay single for all G completions.
    Scores and softmax are float32.
    """
    B, G, T, H, C = q_BGTHC.shape
    K = segments[0].k.shape[-2]
    q_BGTKRC = q_BGTHC.reshape(B, G, T, K, H // K, C)
    scores = [_masked_scores(q_BGTKRC, segment) for segment in segments]
    probs_BGKRTS = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1).astype(q_BGTHC.dtype)
    out_BGTKRC, start = 0.0, 0
    for segment, score in zip(segments, scores, strict=True):
        stop = start + score.shape[-1]
        equation = "bgkrts,bskc->bgtkrc" if segment.v.ndim == 4 else "bgkrts,bgskc->bgtkrc"
        out_BGTKRC += jnp.einsum(equation, probs_BGKRTS[..., start:stop], segment.v)
        start = stop
    return out_BGTKRC.reshape(B, G, T, H, C)


def _masked_scores(q_BGTKRC, segment: KeyValues):
    """Return the scaled float32 scores [B, G, K, R, T, S], MASKED where the query sees no key."""
    equation = "bgtkrc,bskc->bgkrts" if segment.k.ndim == 4 else "bgtkrc,bgskc->bgkrts"
    scores = (
        jnp.einsum(equation, q_BGTKRC, segment.k, preferred_element_type=jnp.float32)
        * q_BGTKRC.shape[-1] ** -0.5
    )
    # The mask has no head axes: [B, G, T, S] becomes [B, G, 1, 1, T, S].
    return jnp.where(segment.mask[:, :, None, None], scores, MASKED)

"""Attention: decoding by one softmax over several K/V segments, and training by one of three implementations behind one interface.

Training attends in three patterns: a prompt's prefix to itself (causal), the completions of a group to the shared prefix and each to
itself, the patches of an image to each other. `xla` does all by `attend`. The fused kernels know one query and one key sequence with a
static mask and segments: the completions of a group become one sequence of G x T queries over P + G x T keys (`_folded`), under a
mask that keeps them apart. In every implementation there is ONE softmax over prefix and own keys, so autodiff is exact.

Shape legend: B batch; G completions per prompt; T query tokens of one completion; P prefix tokens; S key tokens; N query tokens of one
sequence; H query heads; K key/value heads; R = H / K query heads per key head; C head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from segr1_jax.policy.splash_attention import splash_attention

MASKED = float(
    jnp.finfo(jnp.float32).min
)  # finite: a row with no key left stays free of NaN, its output is never read
CUDNN = "cudnn"


class KeyValues(NamedTuple):
    """Rotated keys, values and which slots hold a real token that the query may see.

    `k`, `v`: [B, S, K, C] shared by all completions of a prompt, or [B, G, S, K, C] per completion.
    `mask` broadcasts to the scores: [B, 1|G, 1|T, S].
    """

    k: Float[Array, "B *G S K C"]
    v: Float[Array, "B *G S K C"]
    mask: Bool[Array, "B #G #T S"]


@dataclass(frozen=True)
class Attention:
    """How training attends: `xla` (anywhere), `cudnn` (NVIDIA GPUs, bfloat16) or `splash` (TPUs)."""

    implementation: str = "xla"

    def prefix(
        self,
        q_BPHC: Float[Array, "B P H C"],
        k_BPKC: Float[Array, "B P K C"],
        v_BPKC: Float[Array, "B P K C"],
        mask_BP: Bool[Array, "B P"],
    ) -> Float[Array, "B P H C"]:
        """Causal attention of a prefix to its real tokens."""
        P = mask_BP.shape[1]
        causal_PP = np.tri(P, dtype=bool)
        if self.implementation == "xla":
            return attend(
                q_BPHC[:, None],
                [KeyValues(k_BPKC, v_BPKC, (causal_PP & mask_BP[:, None])[:, None])],
            )[:, 0]
        return self._fused(
            q_BPHC,
            k_BPKC,
            v_BPKC,
            causal_PP,
            jnp.ones_like(mask_BP, jnp.int32),
            mask_BP.astype(jnp.int32),
        )

    def group(
        self,
        q_BGTHC: Float[Array, "B G T H C"],
        shared: KeyValues,
        own: KeyValues,
        mask_BGT: Bool[Array, "B G T"],
    ) -> Float[Array, "B G T H C"]:
        """Completions attend to the shared prefix and, causally, to their own real tokens. `own.mask` is the causal one."""
        if self.implementation == "xla":
            return attend(q_BGTHC, [shared, own])
        B, G, T, H, C = q_BGTHC.shape
        k, v = (
            jnp.concatenate([whole, each.reshape(B, G * T, *each.shape[3:])], axis=1)
            for whole, each in zip(shared[:2], own[:2], strict=True)
        )
        real_BS = jnp.concatenate(
            [shared.mask[:, 0, 0], mask_BGT.reshape(B, G * T)], axis=1
        ).astype(jnp.int32)
        queries_BN = jnp.ones((B, G * T), jnp.int32)
        out = self._fused(
            q_BGTHC.reshape(B, G * T, H, C),
            k,
            v,
            group_mask(shared.k.shape[1], G, T),
            queries_BN,
            real_BS,
        )
        return out.reshape(B, G, T, H, C)

    def images(
        self,
        q_BNHC: Float[Array, "B N H C"],
        k_BNHC: Float[Array, "B N H C"],
        v_BNHC: Float[Array, "B N H C"],
        image_BN: Int[Array, "B N"],
    ) -> Float[Array, "B N H C"]:
        """Patches attend to those of the same image; `image_BN` is its number, -1 for padding."""
        if self.implementation == "xla":
            same_BNN = (image_BN[:, :, None] == image_BN[:, None, :]) & (image_BN >= 0)[:, None]
            return attend(q_BNHC[:, None], [KeyValues(k_BNHC, v_BNHC, same_BNN[:, None])])[:, 0]
        N = image_BN.shape[1]
        return self._fused(q_BNHC, k_BNHC, v_BNHC, np.ones((N, N), bool), image_BN, image_BN)

    def _fused(self, q, k, v, mask_NS: np.ndarray, q_segments_BN, kv_segments_BS):
        """A query sees the keys of its own segment that `mask_NS` allows."""
        if self.implementation == "splash":
            return splash_attention(q, k, v, mask_NS, q_segments_BN, kv_segments_BS)
        seen_BNS = (q_segments_BN[:, :, None] == kv_segments_BS[:, None]) & mask_NS
        return jax.nn.dot_product_attention(q, k, v, mask=seen_BNS[:, None], implementation=CUDNN)


def group_mask(P: int, G: int, T: int) -> Bool[np.ndarray, "N S"]:
    """Which of P + G * T keys each of G * T queries sees: the whole prefix, and of its own completion the tokens up to itself.

    Example:
        >>> group_mask(1, 2, 2).astype(int)
        array([[1, 1, 0, 0, 0],
               [1, 1, 1, 0, 0],
               [1, 0, 0, 1, 0],
               [1, 0, 0, 1, 1]])
    """
    return np.concatenate(
        [np.ones((G * T, P), bool), np.kron(np.eye(G, dtype=bool), np.tri(T, dtype=bool))], axis=1
    )


def attend(
    q_BGTHC: Float[Array, "B G T H C"], segments: Sequence[KeyValues]
) -> Float[Array, "B G T H C"]:
    """One softmax over the joined keys of all segments, without repeating a shared segment G times.

    This is ordinary attention over the concatenated keys (so plain autodiff is exact); only the scores are concatenated.
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
    equation = "bgtkrc,bskc->bgkrts" if segment.k.ndim == 4 else "bgtkrc,bgskc->bgkrts"
    scores = (
        jnp.einsum(equation, q_BGTKRC, segment.k, preferred_element_type=jnp.float32)
        * q_BGTKRC.shape[-1] ** -0.5
    )
    return jnp.where(segment.mask[:, :, None, None], scores, MASKED)

"""The language model of Qwen2.5-VL on a shared prefix (transformers: Qwen2_5_VLTextModel).

A prompt's prefix (image and text) is computed once; its G completions attend to the prefix's keys and values and to themselves.

Shape legend: B prompts; P prefix tokens; G completions per prompt; T completion tokens; D hidden; H query heads;
K key/value heads; C head size; L layers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from segr1_jax.policy.attention import Attention, KeyValues, attend
from segr1_jax.policy.config import LoraConfig
from segr1_jax.policy.layers import GatedMLP, Linear, RMSNorm, Rotary, rotary_from_angles
from segr1_jax.policy.qwen2_5_vl.arch import TextArch


class PrefixCache(NamedTuple):
    """Rotated keys and values of the prefix of every layer, never repeated per completion."""

    k: Float[Array, "L B P K C"]
    v: Float[Array, "L B P K C"]
    mask: Bool[Array, "B P"]


def mrope(arch: TextArch, positions: Int[Array, "3 *shape"]) -> Rotary:
    """Multimodal rotary tables: each frequency follows the axis (temporal, height, width) its section names (float32)."""
    half = arch.head_dim // 2
    frequencies = arch.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    axis = jnp.repeat(jnp.arange(3), jnp.array(arch.mrope_section), total_repeat_length=half)
    position_of_frequency = jnp.moveaxis(positions, 0, -1).astype(jnp.float32)[..., axis]
    return rotary_from_angles(position_of_frequency * frequencies)


class TextAttention(nnx.Module):
    """Grouped-query attention: biases on q, k, v, none on the output map."""

    def __init__(self, rngs: nnx.Rngs, arch: TextArch, lora: LoraConfig | None):
        self.arch = arch
        self.q = Linear(
            rngs, arch.hidden, arch.heads * arch.head_dim, ("embed", "heads"), bias=True, lora=lora
        )
        self.k = Linear(
            rngs,
            arch.hidden,
            arch.kv_heads * arch.head_dim,
            ("embed", "kv_heads"),
            bias=True,
            lora=lora,
        )
        self.v = Linear(
            rngs,
            arch.hidden,
            arch.kv_heads * arch.head_dim,
            ("embed", "kv_heads"),
            bias=True,
            lora=lora,
        )
        self.o = Linear(
            rngs, arch.heads * arch.head_dim, arch.hidden, ("heads", "embed"), bias=False, lora=lora
        )

    def project(self, x: Float[Array, "... D"], rotary: Rotary):
        """Rotated q [..., H, C], rotated k and plain v [..., K, C]."""

        def heads(y, count):
            return y.reshape(*y.shape[:-1], count, self.arch.head_dim)

        q, k, v = (
            heads(self.q(x), self.arch.heads),
            heads(self.k(x), self.arch.kv_heads),
            heads(self.v(x), self.arch.kv_heads),
        )
        return rotary(q), rotary(k), v

    def out(self, heads: Float[Array, "... H C"]) -> Float[Array, "... D"]:
        return self.o(heads.reshape(*heads.shape[:-2], -1))


class TextLayer(nnx.Module):
    """Pre-norm attention and gated MLP. The three entry points share every weight."""

    def __init__(self, rngs: nnx.Rngs, arch: TextArch, lora: LoraConfig | None, kernel: Attention):
        self.kernel = kernel
        self.norm1 = RMSNorm(arch.hidden, arch.norm_eps)
        self.attention = TextAttention(rngs, arch, lora)
        self.norm2 = RMSNorm(arch.hidden, arch.norm_eps)
        self.mlp = GatedMLP(rngs, arch.hidden, arch.intermediate, bias=False, lora=lora)

    @jax.named_scope("text_layer")
    def prefix(self, x_BPD: Float[Array, "B P D"], rotary: Rotary, mask_BP: Bool[Array, "B P"]):
        """Causal self-attention of the prefix; returns its new states and the K/V its completions will read."""
        q, k, v = self.attention.project(self.norm1(x_BPD), rotary)
        return self._finish(x_BPD, self.kernel.prefix(q, k, v, mask_BP)), (k, v)

    @jax.named_scope("text_layer")
    def suffix(
        self,
        x_BGTD: Float[Array, "B G T D"],
        rotary: Rotary,
        shared: KeyValues,
        mask_BGT: Bool[Array, "B G T"],
    ):
        """Completion tokens see the shared prefix and the real ones at or before them of their own completion."""
        q, k, v = self.attention.project(self.norm1(x_BGTD), rotary)
        return self._finish(
            x_BGTD, self.kernel.group(q, shared, KeyValues(k, v, causal_mask(mask_BGT)), mask_BGT)
        )

    @jax.named_scope("text_layer")
    def decode(
        self, x_BG1D: Float[Array, "B G 1 D"], rotary: Rotary, shared: KeyValues, past: KeyValues
    ):
        """One new token per completion sees the shared prefix, the tokens decoded before it, and itself; returns its K/V too."""
        q, k, v = self.attention.project(self.norm1(x_BG1D), rotary)
        itself = KeyValues(k, v, jnp.ones((1, 1, 1, 1), bool))
        return self._finish(x_BG1D, attend(q, [shared, past, itself])), (k, v)

    def _finish(self, x, heads):
        x = x + self.attention.out(heads)
        return x + self.mlp(self.norm2(x))


def causal_mask(mask_BGT: Bool[Array, "B G T"]) -> Bool[Array, "B G T T"]:
    """Token t sees the real tokens at or before t."""
    T = mask_BGT.shape[-1]
    return jnp.tril(jnp.ones((T, T), bool)) & mask_BGT[:, :, None, :]

"""Language model of Qwen2.5-VL with a shared prefix (transformers: Qwen2_5_VLTextModel).

The prefix of a prompt (image and text) is computed once. Its G completions attend to the keys and
values of the prefix, and each to its own.

Positions and masks are separate. A position sets the rotary angle: text counts up on all three
axes, and the tokens of an image take the row and the column of its grid (prompt/positions.py). A
mask works on slots of the arrays: it hides padding and later tokens. Keys are rotated before they
are cached, so attention needs no positions.

Shape legend: B prompts; P prefix tokens; G completions per prompt; T completion tokens; D hidden;
S slots of the stream of completion tokens (policy/packing.py); N = P + S; H query heads;
K key/value heads; C head size; L layers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from segr1_jax.policy.attention import Attention
from segr1_jax.policy.config import LoraConfig
from segr1_jax.policy.layers import GatedMLP, Linear, RMSNorm, Rotary, rotary_from_angles
from segr1_jax.policy.packing import Packing, Unpacked
from segr1_jax.policy.qwen2_5_vl.arch import TextArch


class PrefixCache(NamedTuple):
    """Rotated keys and values of the prefix in every layer, shared by all completions."""

    k: Float[Array, "L B P K C"]
    v: Float[Array, "L B P K C"]
    mask: Bool[Array, "B P"]


def mrope(arch: TextArch, positions: Int[Array, "3 *shape"]) -> Rotary:
    """Return the float32 multimodal rotary tables for positions (temporal, height, width)."""
    half = arch.head_dim // 2
    frequencies = arch.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    # The first mrope_section[0] frequencies follow the temporal axis, the next ones the height, the
    # last ones the width. For text, whose positions are equal on all axes, this is plain RoPE.
    axis = jnp.repeat(jnp.arange(3), jnp.array(arch.mrope_section), total_repeat_length=half)
    position_of_frequency = jnp.moveaxis(positions, 0, -1).astype(jnp.float32)[..., axis]
    return rotary_from_angles(position_of_frequency * frequencies)


def suffix_rotary(
    arch: TextArch, next_position_B: Int[Array, " B"], steps_T: Int[Array, " T"]
) -> Rotary:
    """Return the rotary tables [B, 1, T, C] of completion tokens `steps_T`.

    Completion token t has position next_position + t on all three axes. This is not its slot in a
    cache: an image advances the position by less than its number of tokens, and a prefix may be
    padded.
    """
    positions_B1T = next_position_B[:, None, None] + steps_T
    return mrope(arch, jnp.broadcast_to(positions_B1T, (3, *positions_B1T.shape)))


class TextAttention(nnx.Module):
    """Projections of grouped-query attention: q, k and v have a bias; the output has none."""

    def __init__(self, rngs: nnx.Rngs, arch: TextArch, lora: LoraConfig | None):
        self.arch = arch
        hidden = arch.hidden
        heads = arch.heads * arch.head_dim
        kv_heads = arch.kv_heads * arch.head_dim
        self.q = Linear(rngs, hidden, heads, ("embed", "heads"), bias=True, lora=lora)
        self.k = Linear(rngs, hidden, kv_heads, ("embed", "kv_heads"), bias=True, lora=lora)
        self.v = Linear(rngs, hidden, kv_heads, ("embed", "kv_heads"), bias=True, lora=lora)
        self.o = Linear(rngs, heads, hidden, ("heads", "embed"), bias=False, lora=lora)

    def project(self, x: Float[Array, "... D"], rotary: Rotary):
        """Return rotated q [..., H, C], rotated k [..., K, C] and v [..., K, C]."""

        def split(y, heads):
            return y.reshape(*y.shape[:-1], heads, self.arch.head_dim)

        q = split(self.q(x), self.arch.heads)
        k = split(self.k(x), self.arch.kv_heads)
        v = split(self.v(x), self.arch.kv_heads)
        return rotary(q), rotary(k), v

    def out(self, heads: Float[Array, "... H C"]) -> Float[Array, "... D"]:
        return self.o(heads.reshape(*heads.shape[:-2], -1))


class TextLayer(nnx.Module):
    """Pre-norm attention and gated MLP.

    `prefix` is the prefill of a prompt, `joint` a prompt with its completions. Decoding computes
    the same layer on prepared weights (policy/decoding.py).
    """

    def __init__(self, rngs: nnx.Rngs, arch: TextArch, lora: LoraConfig | None, backend: Attention):
        self.backend = backend
        self.norm1 = RMSNorm(arch.hidden, arch.norm_eps)
        self.attention = TextAttention(rngs, arch, lora)
        self.norm2 = RMSNorm(arch.hidden, arch.norm_eps)
        self.mlp = GatedMLP(rngs, arch.hidden, arch.intermediate, bias=False, lora=lora)

    @jax.named_scope("text_layer")
    def prefix(self, x_BPD: Float[Array, "B P D"], rotary: Rotary, mask_BP: Bool[Array, "B P"]):
        """Compute the prefix with causal attention to its real tokens.

        Returns its new states, and the K/V that its completions read.
        """
        q, k, v = self.attention.project(self.norm1(x_BPD), rotary)
        return self._finish(x_BPD, self.backend.prefix(q, k, v, mask_BP)), (k, v)

    @jax.named_scope("text_layer")
    def joint(
        self,
        x_BND: Float[Array, "B N D"],
        rotary: Rotary,
        prefix_mask_BP: Bool[Array, "B P"],
        mask_BGT: Bool[Array, "B G T"],
        packing: Packing | Unpacked,
    ) -> Float[Array, "B N D"]:
        """Compute a prefix and its whole completions, which follow it as a stream of tokens.

        The prefix is that of `prefix`. A token of a completion sees the shared prefix, and the real
        tokens of its own completion up to itself.
        """
        P = prefix_mask_BP.shape[1]
        parts = self.attention.project(self.norm1(x_BND), rotary)
        q, k, v = (part[:, :P] for part in parts)
        prefix_heads = self.backend.prefix(q, k, v, prefix_mask_BP)
        own_q, own_k, own_v = (part[:, P:] for part in parts)
        own_heads = self.backend.group(own_q, k, v, own_k, own_v, prefix_mask_BP, mask_BGT, packing)
        return self._finish(x_BND, jnp.concatenate([prefix_heads, own_heads], axis=1))

    def _finish(self, x, heads):
        """Add the attention output and the MLP to the residual stream."""
        x = x + self.attention.out(heads)
        return x + self.mlp(self.norm2(x))

"""Qwen2.5-VL as a policy: image and prompt once, completions on top (transformers: Qwen2_5_VLForConditionalGeneration).

Shape legend: B prompts; P prefix tokens; G completions per prompt; T completion tokens; M merged image rows; D hidden; L layers;
K key/value heads; C head size.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from segr1_jax.policy.attention import Attention, KeyValues
from segr1_jax.policy.config import LoraConfig
from segr1_jax.policy.layers import Linear, RMSNorm, weight
from segr1_jax.policy.qwen2_5_vl.arch import PolicyArch
from segr1_jax.policy.qwen2_5_vl.text import PrefixCache, TextLayer, mrope
from segr1_jax.policy.qwen2_5_vl.vision import Features, Images, VisionTower
from segr1_jax.policy.scanned_layers import scan_layers, stacked


class PromptBatch(NamedTuple):
    """Prompts on the device; see types.Prompt. Padding may stand left or right of the prefix: `mask` tells."""

    tokens: Int[Array, "B P"]
    positions: Int[Array, "B 3 P"]
    next_position: Int[Array, " B"]
    image_index: Int[Array, "B P"]
    mask: Bool[Array, "B P"]
    images: Images | Features


class OwnCache(NamedTuple):
    """Keys and values of the completion tokens decoded so far, slot t = token t."""

    k: Float[Array, "L B G T K C"]
    v: Float[Array, "L B G T K C"]


class Qwen25VL(nnx.Module):
    """The policy. Every method is pure in the weights; compute runs in `dtype`, weights keep their own."""

    def __init__(
        self,
        arch: PolicyArch,
        rngs: nnx.Rngs,
        *,
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        lora: LoraConfig | None = None,
        attention: Attention,
    ):
        text = arch.text
        self.arch, self.dtype, self.remat = arch, dtype, remat
        self.vision = VisionTower(rngs, arch.vision, remat=remat, kernel=attention)
        self.embed = weight(rngs, (text.vocab, text.hidden), ("vocab", "embed"))
        self.layers = stacked(lambda r: TextLayer(r, text, lora, attention), text.layers, rngs)
        self.norm = RMSNorm(text.hidden, text.norm_eps)
        self.head = (
            None
            if text.tied_head
            else Linear(rngs, text.hidden, text.vocab, ("embed", "vocab"), bias=False)
        )

    def image_features(self, images: Images | Features) -> Float[Array, "B M D"]:
        """Merged image rows of each prompt; prompts without images (W = 0) give M = 0."""
        if isinstance(images, Features):
            return images.rows.astype(self.dtype)
        if images.patches.shape[1] == 0:
            return jnp.zeros((images.patches.shape[0], 0, self.arch.text.hidden), self.dtype)
        return self.vision(images, self.dtype)

    def prefix_embeddings(
        self, prompts: PromptBatch, features_BMD: Float[Array, "B M D"]
    ) -> Float[Array, "B P D"]:
        """Token embeddings with the image rows in their slots."""
        embedded_BPD = self.embed[...][prompts.tokens].astype(self.dtype)
        if features_BMD.shape[1] == 0:
            return embedded_BPD
        rows_BPD = jnp.take_along_axis(
            features_BMD, jnp.maximum(prompts.image_index, 0)[..., None], axis=1
        )
        return jnp.where(prompts.image_index[..., None] >= 0, rows_BPD, embedded_BPD)

    @jax.named_scope("prefill")
    def prefill(self, prompts: PromptBatch) -> tuple[Float[Array, "B D"], PrefixCache]:
        """Run the prefix alone: the normed state of each prompt's last real token, and the K/V of every layer."""
        x_BPD = self.prefix_embeddings(prompts, self.image_features(prompts.images))
        rotary = mrope(self.arch.text, jnp.moveaxis(prompts.positions, 1, 0))
        x_BPD, (k, v) = scan_layers(
            self.layers, lambda layer, x, _: layer.prefix(x, rotary, prompts.mask), x_BPD
        )
        return self.norm(last_real(x_BPD, prompts.mask)), PrefixCache(k, v, prompts.mask)

    @jax.named_scope("decode")
    def decode(
        self,
        tokens_BG: Int[Array, "B G"],
        step,
        prompts: PromptBatch,
        prefix: PrefixCache,
        own: OwnCache,
    ):
        """One decoding step: token `step` in, the normed state that predicts token `step + 1` and the grown cache out."""
        x_BG1D = self.embed[...][tokens_BG][:, :, None].astype(self.dtype)
        rotary = self._suffix_rotary(prompts, step[None])
        past_mask = (jnp.arange(own.k.shape[3]) < step)[None, None, None]

        def layer_step(layer: TextLayer, x, cache):
            (prefix_k, prefix_v), (own_k, own_v) = cache
            shared = KeyValues(prefix_k, prefix_v, prefix.mask[:, None, None])
            return layer.decode(x, rotary, shared, KeyValues(own_k, own_v, past_mask))

        x_BG1D, (k, v) = scan_layers(
            self.layers, layer_step, x_BG1D, ((prefix.k, prefix.v), (own.k, own.v))
        )
        grown = OwnCache(
            own.k.at[:, :, :, step].set(k[:, :, :, 0]), own.v.at[:, :, :, step].set(v[:, :, :, 0])
        )
        return self.norm(x_BG1D[:, :, 0]), grown

    def predict_states(
        self, prompts: PromptBatch, tokens_BGT: Int[Array, "B G T"], mask_BGT: Bool[Array, "B G T"]
    ) -> Float[Array, "B G T D"]:
        """Normed states that predict each completion token: the prefix's last state, then the state of the token before.

        Both parts run layer by layer in one scan, so the gradient of the shared prefix sums over its G completions.
        """
        x_BPD = self.prefix_embeddings(prompts, self.image_features(prompts.images))
        x_BGTD = self.embed[...][tokens_BGT].astype(self.dtype)
        prefix_rotary = mrope(self.arch.text, jnp.moveaxis(prompts.positions, 1, 0))
        suffix_rotary = self._suffix_rotary(prompts, jnp.arange(tokens_BGT.shape[-1]))

        def step(layer: TextLayer, carry, _):
            prefix, (k, v) = layer.prefix(carry[0], prefix_rotary, prompts.mask)
            return (
                prefix,
                layer.suffix(
                    carry[1], suffix_rotary, KeyValues(k, v, prompts.mask[:, None, None]), mask_BGT
                ),
            ), None

        (x_BPD, x_BGTD), _ = scan_layers(self.layers, step, (x_BPD, x_BGTD), remat=self.remat)
        first_BG1D = jnp.broadcast_to(
            last_real(x_BPD, prompts.mask)[:, None, None], x_BGTD[:, :, :1].shape
        )
        return self.norm(jnp.concatenate([first_BG1D, x_BGTD[:, :, :-1]], axis=2))

    def head_kernel(self) -> Float[Array, "D V"]:
        """The vocabulary projection; a tied head is the transposed embedding."""
        return self.embed[...].T if self.head is None else self.head.kernel[...]

    def _suffix_rotary(self, prompts: PromptBatch, steps_T: Int[Array, " T"]):
        """Completion token t stands at next_position + t on all three axes, never at its cache slot."""
        positions_B1T = prompts.next_position[:, None, None] + steps_T
        return mrope(self.arch.text, jnp.broadcast_to(positions_B1T, (3, *positions_B1T.shape)))


def last_real(x_BPD: Float[Array, "B P D"], mask_BP: Bool[Array, "B P"]) -> Float[Array, "B D"]:
    """The state of the last real prefix token, wherever the padding stands."""
    last_B = jnp.max(jnp.where(mask_BP, jnp.arange(mask_BP.shape[1]), 0), axis=1)
    return jnp.take_along_axis(x_BPD, last_B[:, None, None], axis=1)[:, 0]

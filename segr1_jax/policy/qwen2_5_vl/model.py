"""Qwen2.5-VL as a policy: each prompt is computed once and shared by its completions.

Source: Qwen2_5_VLForConditionalGeneration of transformers.

Shape legend: B prompts; P prefix tokens; G completions per prompt; T completion tokens; M merged
image rows; D hidden; L layers; K key/value heads; C head size; V vocabulary.
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
from segr1_jax.policy.qwen2_5_vl.text import PrefixCache, TextLayer, mrope, suffix_rotary
from segr1_jax.policy.qwen2_5_vl.vision import Features, Images, VisionTower
from segr1_jax.policy.scanned_layers import scan_layers, stacked


class PromptBatch(NamedTuple):
    """Prompts on the device; see types.Prompt.

    Padding may be on the left or on the right of a prefix; `mask` marks the real tokens.
    """

    tokens: Int[Array, "B P"]
    positions: Int[Array, "B 3 P"]
    next_position: Int[Array, " B"]
    image_index: Int[Array, "B P"]
    mask: Bool[Array, "B P"]
    images: Images | Features


class Qwen25VL(nnx.Module):
    """Vision tower and language model.

    Every method is a pure function of the weights. The computation runs in `dtype`, and weights
    keep their own dtype.
    """

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
        self.arch = arch
        self.dtype = dtype
        self.remat = remat
        self.vision = VisionTower(rngs, arch.vision, remat=remat, backend=attention)
        self.embed = weight(rngs, (text.vocab, text.hidden), ("vocab", "embed"))
        self.layers = stacked(lambda r: TextLayer(r, text, lora, attention), text.layers, rngs)
        self.norm = RMSNorm(text.hidden, text.norm_eps)
        # One assignment: nnx takes an attribute that begins as None for static.
        self.head = (
            None
            if text.tied_head
            else Linear(rngs, text.hidden, text.vocab, ("embed", "vocab"), bias=False)
        )

    def image_features(self, images: Images | Features) -> Float[Array, "B M D"]:
        """Return the merged image rows of each prompt; M = 0 for prompts without images (W = 0)."""
        if isinstance(images, Features):
            return images.rows.astype(self.dtype)
        if images.patches.shape[1] == 0:
            return jnp.zeros((images.patches.shape[0], 0, self.arch.text.hidden), self.dtype)
        return self.vision(images, self.dtype)

    def prefix_embeddings(
        self, prompts: PromptBatch, features_BMD: Float[Array, "B M D"]
    ) -> Float[Array, "B P D"]:
        """Return the token embeddings, with the image rows in the image slots."""
        embedded_BPD = self.embed[...][prompts.tokens].astype(self.dtype)
        if features_BMD.shape[1] == 0:
            return embedded_BPD
        # Text tokens have index -1: they read row 0, which the `where` below drops.
        row_BP1 = jnp.maximum(prompts.image_index, 0)[..., None]
        rows_BPD = jnp.take_along_axis(features_BMD, row_BP1, axis=1)
        return jnp.where(prompts.image_index[..., None] >= 0, rows_BPD, embedded_BPD)

    @jax.named_scope("prefill")
    def prefill(self, prompts: PromptBatch) -> tuple[Float[Array, "B D"], PrefixCache]:
        """Compute the prefix.

        Returns the normed state of each prompt's last real token, and the K/V of every layer.
        """
        x_BPD = self.prefix_embeddings(prompts, self.image_features(prompts.images))
        rotary = mrope(self.arch.text, jnp.moveaxis(prompts.positions, 1, 0))
        x_BPD, (k, v) = scan_layers(
            self.layers, lambda layer, x, _: layer.prefix(x, rotary, prompts.mask), x_BPD
        )
        return self.norm(last_real(x_BPD, prompts.mask)), PrefixCache(k, v, prompts.mask)

    def predict_states(
        self, prompts: PromptBatch, tokens_BGT: Int[Array, "B G T"], mask_BGT: Bool[Array, "B G T"]
    ) -> Float[Array, "B G T D"]:
        """Return the normed states that predict each completion token.

        The state of the prefix's last real token predicts token 0, and the state of token t - 1
        predicts token t. Prefix and completions run layer by layer in one scan, so the gradient of
        the shared prefix sums over its G completions.
        """
        x_BPD = self.prefix_embeddings(prompts, self.image_features(prompts.images))
        x_BGTD = self.embed[...][tokens_BGT].astype(self.dtype)
        prefix_rotary = mrope(self.arch.text, jnp.moveaxis(prompts.positions, 1, 0))
        steps_T = jnp.arange(tokens_BGT.shape[-1])
        completion_rotary = suffix_rotary(self.arch.text, prompts.next_position, steps_T)

        def step(layer: TextLayer, carry, _):
            prefix, suffix = carry
            prefix, (k, v) = layer.prefix(prefix, prefix_rotary, prompts.mask)
            shared = KeyValues(k, v, prompts.mask[:, None, None])
            suffix = layer.suffix(suffix, completion_rotary, shared, mask_BGT)
            return (prefix, suffix), None

        (x_BPD, x_BGTD), _ = scan_layers(self.layers, step, (x_BPD, x_BGTD), remat=self.remat)
        first_BG1D = jnp.broadcast_to(
            last_real(x_BPD, prompts.mask)[:, None, None], x_BGTD[:, :, :1].shape
        )
        return self.norm(jnp.concatenate([first_BG1D, x_BGTD[:, :, :-1]], axis=2))

    def head_kernel(self) -> Float[Array, "D V"]:
        """Return the vocabulary projection; a tied head is the transposed embedding."""
        return self.embed[...].T if self.head is None else self.head.kernel[...]


def last_real(x_BPD: Float[Array, "B P D"], mask_BP: Bool[Array, "B P"]) -> Float[Array, "B D"]:
    """Return the state of the last real prefix token, with padding on either side."""
    last_B = jnp.max(jnp.where(mask_BP, jnp.arange(mask_BP.shape[1]), 0), axis=1)
    return jnp.take_along_axis(x_BPD, last_B[:, None, None], axis=1)[:, 0]

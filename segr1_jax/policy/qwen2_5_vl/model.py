"""Qwen2.5-VL as a policy: each prompt is computed once and shared by its completions.

Source: Qwen2_5_VLForConditionalGeneration of transformers.

Shape legend: B prompts; P prefix tokens; G completions per prompt; T completion tokens; M merged
image rows; S slots of the stream of completion tokens (policy/packing.py); N = P + S; D hidden;
L layers; K key/value heads; C head size; V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from segr1_jax.policy.attention import Attention
from segr1_jax.policy.batch_rows import split_rows
from segr1_jax.policy.config import LoraConfig, Remat
from segr1_jax.policy.layers import Linear, RMSNorm, Rotary, weight
from segr1_jax.policy.packing import Packing, Unpacked, packed
from segr1_jax.policy.qwen2_5_vl.arch import PolicyArch
from segr1_jax.policy.qwen2_5_vl.text import PrefixCache, TextLayer, mrope
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
        remat: Remat = "none",
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
        """Return the normed states that predict each completion token, and those of padding."""
        packing = packed(mask_BGT)
        return packing.unpack(self.packed_states(prompts, tokens_BGT, mask_BGT, packing))

    def packed_states(
        self,
        prompts: PromptBatch,
        tokens_BGT: Int[Array, "B G T"],
        mask_BGT: Bool[Array, "B G T"],
        packing: Packing | Unpacked,
    ) -> Float[Array, "B S D"]:
        """Return the normed states that predict the completion tokens in each slot of a stream.

        The state of the prefix's last real token predicts token 0, and the state of token t - 1
        predicts token t. Prefix and completions run layer by layer in one scan and as one sequence,
        so a layer reads its weights once, and the gradient of the shared prefix sums over its G
        completions.
        """
        prefix_BPD = self.prefix_embeddings(prompts, self.image_features(prompts.images))
        own_BSD = self.embed[...][packing.pack(tokens_BGT)].astype(self.dtype)
        step_BS = packing.pack(jnp.broadcast_to(jnp.arange(tokens_BGT.shape[2]), tokens_BGT.shape))
        rotary = self._joint_rotary(prompts, step_BS)

        def step(layer: TextLayer, x_BND, _):
            return layer.joint(x_BND, rotary, prompts.mask, mask_BGT, packing), None

        # Constrained here too. Otherwise every device computes the derivative of the image features
        # for all rows.
        x_BND = jnp.concatenate(split_rows([prefix_BPD, own_BSD]), axis=1)
        x_BND, _ = scan_layers(self.layers, step, x_BND, remat=self.remat)
        P = prefix_BPD.shape[1]
        last_B1D = last_real(x_BND[:, :P], prompts.mask)[:, None]
        # The slot before that of token t > 0 holds token t - 1 of the same completion.
        before_BSD = jnp.concatenate([last_B1D, x_BND[:, P:-1]], axis=1)
        return self.norm(jnp.where(step_BS[..., None] == 0, last_B1D, before_BSD))

    def _joint_rotary(self, prompts: PromptBatch, step_BS: Int[Array, "B S"]) -> Rotary:
        """Return the rotary tables of a prefix followed by completion tokens `step_BS`."""
        own_BS = prompts.next_position[:, None] + step_BS
        own_B3S = jnp.broadcast_to(own_BS[:, None], (len(own_BS), 3, own_BS.shape[1]))
        positions_B3N = jnp.concatenate([prompts.positions, own_B3S], axis=2)
        return mrope(self.arch.text, jnp.moveaxis(positions_B3N, 1, 0))

    def head_kernel(self) -> Float[Array, "D V"]:
        """Return the vocabulary projection; a tied head is the transposed embedding."""
        return self.embed[...].T if self.head is None else self.head.kernel[...]


def last_real(x_BPD: Float[Array, "B P D"], mask_BP: Bool[Array, "B P"]) -> Float[Array, "B D"]:
    """Return the state of the last real prefix token, with padding on either side."""
    last_B = jnp.max(jnp.where(mask_BP, jnp.arange(mask_BP.shape[1]), 0), axis=1)
    return jnp.take_along_axis(x_BPD, last_B[:, None, None], axis=1)[:, 0]

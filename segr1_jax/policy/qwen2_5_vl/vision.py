"""Vision tower of Qwen2.5-VL over patches in window order.

The host sorts patches by attention window and pads each window to S slots (prompt/windows.py), so
window attention is a reshape, and the text selects merged rows by index. Layers with full attention
see all windows of the same image.
Source: Qwen2_5_VisionTransformerPretrainedModel of transformers.

Shape legend: B prompts; W windows; S patches per window; N = W * S; p pixel values per patch (3
channels); V inputs per patch; D hidden; H heads; C head size; M = N / merge^2 merged rows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, UInt8

from segr1_jax.policy.attention import Attention
from segr1_jax.policy.config import Remat
from segr1_jax.policy.layers import GatedMLP, Linear, RMSNorm, Rotary, rotary_from_angles, weight
from segr1_jax.policy.mixed_precision import times
from segr1_jax.policy.qwen2_5_vl.arch import VisionArch
from segr1_jax.policy.scanned_layers import scan_layers, stacked

ROPE_THETA = 10000.0
NORM_EPS = 1e-6


class Images(NamedTuple):
    """Images of a batch of prompts, patches in padded window order (types.Prompt, stacked)."""

    patches: UInt8[Array, "B W S p"]
    levels: Float[Array, "B 3 256"]
    positions: Int[Array, "B W S 2"]
    mask: Bool[Array, "B W S"]
    window_image: Int[Array, "B W"]


class Features(NamedTuple):
    """Output of the tower for the images of a batch.

    It replaces `Images` where the tower is frozen and runs once per step.
    """

    rows: Float[Array, "B M D"]


def tower_inputs(images: Images, frames: int, dtype: DTypeLike) -> Float[Array, "B N V"]:
    """Return the normalized patches; a still image fills all `frames` of a temporal patch.

    Pixels travel to the device as they are, an eighth of the bytes of normalized frames. Slots
    without a patch hold the values of a black pixel.
    """
    B, W, S, p = images.patches.shape
    pixels_BN3p = images.patches.reshape(B, W * S, 3, p // 3).astype(jnp.int32)
    levels_B3 = images.levels.astype(dtype)

    def look_up(levels, pixels_N3p):
        return levels.at[jnp.arange(3)[:, None], pixels_N3p].get(mode="promise_in_bounds")

    values_BN3p = jax.vmap(look_up)(levels_B3, pixels_BN3p)
    frames_BN3fp = jnp.repeat(values_BN3p[..., None, :], frames, axis=-2)
    return frames_BN3fp.reshape(B, W * S, frames * p)


class VisionAttention(nnx.Module):
    """Multi-head attention with separate q, k and v maps.

    A checkpoint has one joined qkv map, which hf/keys.py splits.
    """

    def __init__(self, rngs: nnx.Rngs, arch: VisionArch, backend: Attention):
        self.heads = arch.heads
        self.backend = backend
        self.q = Linear(rngs, arch.hidden, arch.hidden, ("embed", "heads"), bias=True)
        self.k = Linear(rngs, arch.hidden, arch.hidden, ("embed", "heads"), bias=True)
        self.v = Linear(rngs, arch.hidden, arch.hidden, ("embed", "heads"), bias=True)
        self.o = Linear(rngs, arch.hidden, arch.hidden, ("heads", "embed"), bias=True)

    def __call__(self, x_BND, rotary_BNC: Rotary, images: Images, is_full: Bool[Array, ""]):
        B, N, D = x_BND.shape
        W, S = images.mask.shape[1:]
        shape = (B, N, self.heads, D // self.heads)
        q = self.q(x_BND).reshape(shape)
        k = self.k(x_BND).reshape(shape)
        v = self.v(x_BND).reshape(shape)
        q, k = rotary_BNC(q), rotary_BNC(k)

        def whole_image():
            is_patch_BN = images.mask.reshape(B, N)
            window_image_BN = jnp.repeat(images.window_image, S, axis=1)
            image_BN = jnp.where(is_patch_BN, window_image_BN, -1)
            return self.backend.images(q, k, v, image_BN)

        def inside_windows():
            # Each window is a row of its own batch, so patches of different windows never meet.
            windows = (B * W, S, *shape[2:])
            mask = jnp.broadcast_to(images.mask.reshape(B * W, 1, 1, S), (B * W, 1, S, S))
            heads = self.backend.masked(*(x.reshape(windows) for x in (q, k, v)), mask)
            return heads.reshape(shape)

        # The layers are scanned with one program, so each one chooses its attention at run time.
        return self.o(jax.lax.cond(is_full, whole_image, inside_windows).reshape(B, N, D))


class VisionLayer(nnx.Module):
    """Pre-norm attention and gated MLP, each with a residual."""

    def __init__(self, rngs: nnx.Rngs, arch: VisionArch, backend: Attention):
        self.norm1 = RMSNorm(arch.hidden, NORM_EPS)
        self.attention = VisionAttention(rngs, arch, backend)
        self.norm2 = RMSNorm(arch.hidden, NORM_EPS)
        self.mlp = GatedMLP(rngs, arch.hidden, arch.intermediate, bias=True)

    def __call__(self, x_BND, rotary_BNC: Rotary, images: Images, is_full: Bool[Array, ""]):
        x_BND = x_BND + self.attention(self.norm1(x_BND), rotary_BNC, images, is_full)
        return x_BND + self.mlp(self.norm2(x_BND))


class VisionTower(nnx.Module):
    """Tower from patches to merged image features of the language model's width."""

    def __init__(self, rngs: nnx.Rngs, arch: VisionArch, *, remat: Remat, backend: Attention):
        self.arch = arch
        self.remat = remat
        merged = arch.hidden * arch.merge**2
        self.patch_embed = weight(rngs, (arch.patch_values, arch.hidden), (None, "embed"))
        self.layers = stacked(lambda r: VisionLayer(r, arch, backend), arch.depth, rngs)
        self.merge_norm = RMSNorm(arch.hidden, NORM_EPS)
        self.merge_in = Linear(rngs, merged, merged, ("embed", "mlp"), bias=True)
        self.merge_out = Linear(rngs, merged, arch.out_hidden, ("mlp", "embed"), bias=True)

    @jax.named_scope("vision_tower")
    def __call__(self, images: Images, dtype: DTypeLike) -> Float[Array, "B M D"]:
        """Return the merged features; row = window * S / merge^2 + unit.

        Rows of padded slots hold finite values without meaning; no prompt refers to them.
        """
        B, W, S, _ = images.patches.shape
        inputs_BNV = tower_inputs(images, self.arch.temporal_patch, dtype)
        x_BND = times(inputs_BNV, self.patch_embed[...])
        rotary_BNC = self._rotary(images.positions.reshape(B, W * S, 2))
        full_layers = jnp.array(self.arch.full_layers, jnp.int32)
        is_full_L = jnp.isin(jnp.arange(self.arch.depth), full_layers)

        def step(layer: VisionLayer, x_BND, is_full):
            return layer(x_BND, rotary_BNC, images, is_full), None

        x_BND, _ = scan_layers(self.layers, step, x_BND, is_full_L, remat=self.remat)
        # The patches of a merged unit are consecutive, so joining them is a reshape.
        per_unit = self.arch.merge**2
        shape = (B, W * S // per_unit, per_unit * self.arch.hidden)
        units_BMD = self.merge_norm(x_BND).reshape(shape)
        return self.merge_out(jax.nn.gelu(self.merge_in(units_BMD), approximate=False))

    def _rotary(self, positions_BN2) -> Rotary:
        """Return float32 rotary tables: half of the frequencies for rows, half for columns."""
        quarter = self.arch.hidden // self.arch.heads // 4
        frequencies = ROPE_THETA ** (-jnp.arange(quarter, dtype=jnp.float32) / quarter)
        angles = positions_BN2[..., None].astype(jnp.float32) * frequencies
        return rotary_from_angles(angles.reshape(*positions_BN2.shape[:-1], 2 * quarter))

"""Layers of both towers: declarations of weights, norms, linear maps, rotary embedding.

Shape legend: D hidden; H heads; C head size; I, O sizes of a linear map; ... any leading axes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from segr1_jax.policy.config import PRODUCT, LoraConfig
from segr1_jax.policy.mixed_precision import spread, times

Axes = tuple[str | None, ...]


def weight(rngs: nnx.Rngs, shape: Sequence[int], axes: Axes, scale: float = 0.02) -> nnx.Param:
    """Declare one weight with a normal initializer of standard deviation `scale`.

    `axes` names its logical axes, which policy/sharding.py maps to the mesh.
    """
    return nnx.Param(scale * jax.random.normal(rngs.params(), tuple(shape), jnp.float32), axes=axes)


def constant(value: float, shape: Sequence[int], axes: Axes) -> nnx.Param:
    """Declare one weight that starts as a constant (norm scales, biases)."""
    return nnx.Param(jnp.full(tuple(shape), value, jnp.float32), axes=axes)


class Linear(nnx.Module):
    """Linear map x @ kernel (+ bias) in the dtype of x.

    The kernel is stored [in, out], the transpose of torch's. With `lora` a low-rank adapter is
    added. Its initial values follow peft: B is 0, and A has the standard deviation of peft's
    uniform(+-1/sqrt(in)).
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        size_in: int,
        size_out: int,
        axes: tuple[str | None, str | None],
        *,
        bias: bool,
        lora: LoraConfig | None = None,
    ):
        self.kernel = weight(rngs, (size_in, size_out), axes)
        self.bias = constant(0.0, (size_out,), axes[1:]) if bias else None
        self.lora_scale = lora.scale if lora else None
        self.lora_a = (
            weight(rngs, (size_in, lora.rank), (axes[0], None), scale=(3 * size_in) ** -0.5)
            if lora
            else None
        )
        self.lora_b = constant(0.0, (lora.rank, size_out), (None, axes[1])) if lora else None

    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        y = times(x, self.kernel[...])
        if self.bias is not None:
            y = y + spread(self.bias[...], y)
        if self.lora_scale is not None:
            y = y + self.lora_scale * times(times(x, self.lora_a[...]), self.lora_b[...])
        return checkpoint_name(y, PRODUCT)


class RMSNorm(nnx.Module):
    """Root-mean-square norm with float32 statistics, as in transformers' Qwen2_5_VLRMSNorm."""

    def __init__(self, size: int, eps: float):
        self.scale = constant(1.0, (size,), (None,))
        self.eps = eps

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        return rms_norm(x, self.scale[...], self.eps)


def rms_norm(
    x: Float[Array, "... D"], scale: Float[Array, " D"], eps: float
) -> Float[Array, "... D"]:
    """Return x divided by its root mean square, times `scale`, in the dtype of x."""
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return spread(scale, x) * normed.astype(x.dtype)


class GatedMLP(nnx.Module):
    """Gated feed-forward layer: down(silu(gate(x)) * up(x))."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        hidden: int,
        intermediate: int,
        *,
        bias: bool,
        lora: LoraConfig | None = None,
    ):
        self.gate = Linear(rngs, hidden, intermediate, ("embed", "mlp"), bias=bias, lora=lora)
        self.up = Linear(rngs, hidden, intermediate, ("embed", "mlp"), bias=bias, lora=lora)
        self.down = Linear(rngs, intermediate, hidden, ("mlp", "embed"), bias=bias, lora=lora)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Rotary(NamedTuple):
    """Float32 cosines and sines of one rotation per token, shared by all heads.

    The last axis is C; its two halves are equal.
    """

    cos: Float[Array, "... C"]
    sin: Float[Array, "... C"]

    def __call__(self, x: Float[Array, "... H C"]) -> Float[Array, "... H C"]:
        """Rotate pairs (c, c + C/2) in float32; return the result in the dtype of x."""
        x32 = x.astype(jnp.float32)
        left, right = jnp.split(x32, 2, axis=-1)
        turned = jnp.concatenate([-right, left], axis=-1)
        return (x32 * self.cos[..., None, :] + turned * self.sin[..., None, :]).astype(x.dtype)


def rotary_from_angles(angles: Float[Array, "... half"]) -> Rotary:
    """Return the rotary tables for the angle of each frequency."""
    both = jnp.concatenate([angles, angles], axis=-1)
    return Rotary(jnp.cos(both), jnp.sin(both))

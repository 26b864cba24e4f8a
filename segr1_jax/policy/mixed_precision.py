"""Products of float32 weights with values of lower precision, with float32 gradients.

The transpose of `x @ w.astype(bfloat16)` is a bfloat16 product: XLA rounds it to bfloat16, and on a
mesh sums the rounded products of all devices in bfloat16, before it converts the sum to float32.
Here the forward pass is that expression, but the gradient of the weight is a product of bfloat16
operands with a float32 result. If the dtypes agree, nothing is rounded and plain autodiff is used.

Shape legend: I, O sizes of a linear map; ... any leading axes.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def times(
    x: Float[Array, "... I"], weight_IO: Float[Array, "I O"], dtype: DTypeLike | None = None
) -> Float[Array, "... O"]:
    """Return x @ weight, multiplied in the dtype of x and cast to `dtype` (default: that of x)."""
    dtype = jnp.dtype(dtype or x.dtype)
    if x.dtype == weight_IO.dtype:
        return jnp.matmul(x, weight_IO, preferred_element_type=dtype)
    return _times(x, weight_IO, dtype)


def spread(weight: Float[Array, " O"], like: Float[Array, "... O"]) -> Float[Array, "... O"]:
    """Return the weight in the dtype of `like`, to be broadcast against it."""
    if weight.dtype == like.dtype:
        return weight
    return _spread(weight, like.shape, like.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _times(x, weight_IO, dtype):
    return jnp.matmul(x, weight_IO.astype(x.dtype), preferred_element_type=dtype)


def _times_forward(x, weight_IO, dtype):
    # Keep the float32 weight itself: its copy in the dtype of x would be stored for every layer.
    return _times(x, weight_IO, dtype), (x, weight_IO)


def _times_backward(dtype, kept, cotangent):
    x, weight_IO = kept
    cotangent = cotangent.astype(x.dtype)
    x_gradient = jnp.matmul(cotangent, weight_IO.astype(x.dtype).T)
    weight_gradient_IO = jnp.einsum(
        "...i,...o->io", x, cotangent, preferred_element_type=weight_IO.dtype
    )
    if dtype != x.dtype:
        # Logits. A tied head is followed by a transposition, which XLA's CPU backend (jaxlib
        # 0.10.2) would merge with this product into one that it cannot compute.
        weight_gradient_IO = jax.lax.optimization_barrier(weight_gradient_IO)
    return x_gradient, weight_gradient_IO


_times.defvjp(_times_forward, _times_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _spread(weight, shape, dtype):
    return jnp.broadcast_to(weight.astype(dtype), shape)


def _spread_forward(weight, shape, dtype):
    return _spread(weight, shape, dtype), weight


def _spread_backward(shape, dtype, weight, cotangent):
    leading = tuple(range(len(shape) - 1))
    return (jnp.sum(cotangent, axis=leading, dtype=weight.dtype),)


_spread.defvjp(_spread_forward, _spread_backward)

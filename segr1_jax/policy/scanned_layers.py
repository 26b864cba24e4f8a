"""Layers stacked on a leading axis and scanned, so that compile time does not grow with depth."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from segr1_jax.policy.batch_rows import split_rows


def stacked(make: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs) -> nnx.Module:
    """`count` independent initialisations of one module; every weight gains a leading layer axis."""

    @nnx.split_rngs(splits=count)
    @nnx.vmap(in_axes=0, out_axes=0)
    def build(layer_rngs: nnx.Rngs) -> nnx.Module:
        return make(layer_rngs)

    return build(rngs)


def scan_layers(
    layers: nnx.Module,
    step: Callable[[Any, Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any = None,
    *,
    remat: bool = False,
) -> tuple[Any, Any]:
    """`lax.scan` of `step(layer, carry, x) -> (carry, y)` over stacked layers; `remat` keeps only the carry between layers.

    The arrays of `carry` have the batch as first axis, and are held to it (split_rows).
    """
    graphdef, weights = nnx.split(layers)

    def body(carry, slices):
        layer_weights, x = slices
        return step(nnx.merge(graphdef, layer_weights), split_rows(carry), x)

    return jax.lax.scan(jax.checkpoint(body) if remat else body, carry, (weights, xs))

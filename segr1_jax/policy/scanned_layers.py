"""Layers stacked along a leading axis and scanned: compile time does not grow with depth."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from segr1_jax.policy.batch_rows import split_rows


def stacked(make: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs) -> nnx.Module:
    """Stack `count` independent initializations of a module along a leading axis of each weight."""

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
    """Run `lax.scan` of `step(layer, carry, x) -> (carry, y)` over stacked layers.

    With `remat` only the carry between layers is stored for the backward pass. The arrays of
    `carry` have the batch as first axis and are constrained to be split along it (split_rows).
    """
    graphdef, weights = nnx.split(layers)

    def body(carry, slices):
        layer_weights, x = slices
        return step(nnx.merge(graphdef, layer_weights), split_rows(carry), x)

    return jax.lax.scan(jax.checkpoint(body) if remat else body, carry, (weights, xs))

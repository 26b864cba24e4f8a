"""Layers stacked along a leading axis and scanned: compile time does not grow with depth."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from segr1_jax.policy.batch_rows import split_rows
from segr1_jax.policy.config import PRODUCT, Remat

KEPT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "products": jax.checkpoint_policies.save_only_these_names(PRODUCT),
}


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
    remat: Remat = "none",
) -> tuple[Any, Any]:
    """Run `lax.scan` of `step(layer, carry, x) -> (carry, y)` over stacked layers.

    With `remat` "full" only the carry between layers is stored for the backward pass, with
    "products" also the values that layers name PRODUCT. The arrays of `carry` have the batch as
    first axis and are constrained to be split along it (split_rows).
    """
    graphdef, weights = nnx.split(layers)

    def body(carry, slices):
        layer_weights, x = slices
        return step(nnx.merge(graphdef, layer_weights), split_rows(carry), x)

    if remat != "none":
        body = jax.checkpoint(body, policy=KEPT[remat])
    return jax.lax.scan(body, carry, (weights, xs))

"""From values per token to one mean over a batch, in two parts that add up over micro-batches (jax).

Shape legend: B prompts; G completions per prompt; T completion tokens, padded on the right to rollout.max_tokens.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Mean(NamedTuple):
    """A mean before its division: totals and weights of micro-batches add up, and whoever has added them divides once."""

    total: Float[Array, ""]
    weight: Float[Array, ""]


Aggregation = Callable[[Float[Array, "B G T"], Bool[Array, "B G T"], Float[Array, "B G"]], Mean]


def sum_tokens(
    values_BGT: Float[Array, "B G T"], mask_BGT: Bool[Array, "B G T"]
) -> Float[Array, "B G"]:
    """Sum over the real tokens of each completion."""
    return jnp.sum(jnp.where(mask_BGT, values_BGT, 0.0), axis=-1)


def completion_mean(
    values_BGT: Float[Array, "B G T"],
    mask_BGT: Bool[Array, "B G T"],
    weight_BG: Float[Array, "B G"],
) -> Mean:
    """GRPO (arXiv 2402.03300) and Seg-R1: the mean over completions of the mean over each one's tokens (0 for an empty one)."""
    means_BG = sum_tokens(values_BGT, mask_BGT) / jnp.maximum(jnp.sum(mask_BGT, axis=-1), 1)
    return Mean(jnp.sum(means_BG * weight_BG), jnp.sum(weight_BG))


def token_mean(
    values_BGT: Float[Array, "B G T"],
    mask_BGT: Bool[Array, "B G T"],
    weight_BG: Float[Array, "B G"],
) -> Mean:
    """DAPO (arXiv 2503.14476): one mean over all tokens of the batch, so that a long completion counts by its length."""
    return Mean(
        jnp.sum(sum_tokens(values_BGT, mask_BGT) * weight_BG),
        jnp.sum(jnp.sum(mask_BGT, axis=-1) * weight_BG),
    )


def constant(
    values_BGT: Float[Array, "B G T"],
    mask_BGT: Bool[Array, "B G T"],
    weight_BG: Float[Array, "B G"],
) -> Mean:
    """Dr.GRPO (arXiv 2503.20783): the mean over completions of each one's sum over T, the same constant for all."""
    sums_BG = sum_tokens(values_BGT, mask_BGT) / values_BGT.shape[-1]
    return Mean(jnp.sum(sums_BG * weight_BG), jnp.sum(weight_BG))


AGGREGATIONS: dict[str, Aggregation] = {
    "completion_mean": completion_mean,
    "token_mean": token_mean,
    "constant": constant,
}

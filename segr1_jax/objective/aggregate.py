"""Aggregation of values per token to a mean over a batch, as sums over micro-batches (jax).

Shape legend: B prompts; G completions per prompt; T completion tokens, padded on the right to
rollout.max_tokens.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Mean(NamedTuple):
    """Mean before its division.

    Totals and weights of micro-batches are added up, and then divided once.
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]


Aggregation = Callable[[Float[Array, "B G T"], Bool[Array, "B G T"], Float[Array, "B G"]], Mean]


def sum_tokens(
    values_BGT: Float[Array, "B G T"], mask_BGT: Bool[Array, "B G T"]
) -> Float[Array, "B G"]:
    """Sum the values of the real tokens of each completion."""
    return jnp.sum(jnp.where(mask_BGT, values_BGT, 0.0), axis=-1)


def completion_mean(
    values_BGT: Float[Array, "B G T"],
    mask_BGT: Bool[Array, "B G T"],
    weight_BG: Float[Array, "B G"],
) -> Mean:
    """Average the means per completion over completions: GRPO (arXiv 2402.03300), Seg-R1.

    An empty completion counts as 0.
    """
    means_BG = sum_tokens(values_BGT, mask_BGT) / jnp.maximum(jnp.sum(mask_BGT, axis=-1), 1)
    return Mean(jnp.sum(means_BG * weight_BG), jnp.sum(weight_BG))


def token_mean(
    values_BGT: Float[Array, "B G T"],
    mask_BGT: Bool[Array, "B G T"],
    weight_BG: Float[Array, "B G"],
) -> Mean:
    """Average over all tokens of the batch, so that a completion counts by its length: DAPO.

    Source: arXiv 2503.14476.
    """
    return Mean(
        total=jnp.sum(sum_tokens(values_BGT, mask_BGT) * weight_BG),
        weight=jnp.sum(jnp.sum(mask_BGT, axis=-1) * weight_BG),
    )


def constant(
    values_BGT: Float[Array, "B G T"],
    mask_BGT: Bool[Array, "B G T"],
    weight_BG: Float[Array, "B G"],
) -> Mean:
    """Average sum(values) / T over completions: Dr.GRPO (arXiv 2503.20783).

    T is the same constant for completions of any length.
    """
    sums_BG = sum_tokens(values_BGT, mask_BGT) / values_BGT.shape[-1]
    return Mean(jnp.sum(sums_BG * weight_BG), jnp.sum(weight_BG))


AGGREGATIONS: dict[str, Aggregation] = {
    "completion_mean": completion_mean,
    "token_mean": token_mean,
    "constant": constant,
}

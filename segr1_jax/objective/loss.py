"""The losses, as pure functions of per-token log-probabilities (jax).

Shape legend: B prompts; G completions per prompt; T completion tokens.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from segr1_jax.objective.aggregate import AGGREGATIONS, Mean, completion_mean, token_mean
from segr1_jax.objective.batch import AnswerBatch, GroupBatch
from segr1_jax.objective.config import ObjectiveConfig
from segr1_jax.objective.kl import LOSS_ESTIMATORS, k1, k3, log_ratio


class Loss(NamedTuple):
    """What to minimise: `objective.total`, to be divided by `objective.weight` once all micro-batches are added up.

    Beside it metrics that are means, each with a weight of its own, and metrics that take the maximum.
    """

    objective: Mean
    means: dict[str, Mean]
    maxima: dict[str, Float[Array, ""]]


def clipped_surrogate(
    ratio: Float[Array, "B G T"], advantages_BG: Float[Array, "B G"], low: float, high: float
) -> Float[Array, "B G T"]:
    """PPO's min(ratio A, clip(ratio, 1 - low, 1 + high) A) per token."""
    advantages = advantages_BG[..., None]
    return jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - low, 1 + high) * advantages)


def is_clipped(
    ratio: Float[Array, "B G T"], advantages_BG: Float[Array, "B G"], low: float, high: float
) -> Bool[Array, "B G T"]:
    """Which tokens the clip takes the gradient from: a ratio past the bound that the advantage pushes it towards."""
    advantages = advantages_BG[..., None]
    return ((ratio > 1 + high) & (advantages > 0)) | ((ratio < 1 - low) & (advantages < 0))


def old_logprobs(
    logprobs: Float[Array, "B G T"], batch: GroupBatch, objective: ObjectiveConfig
) -> Float[Array, "B G T"]:
    """Log-probabilities under the policy that sampled, the ratio's denominator.

    Where each rollout gets one update, that policy is the one being updated: the sampler's figures are `logprobs` but for its roundings
    (at most 1e-4 in float32, the metric sampler_gap). Taking `logprobs` itself leaves those out, and exp(logp - stop_gradient(logp)) is
    exactly 1 with exactly the gradient of logp. From the second update on the two policies differ, and only the sampler knows the old.
    """
    return (
        jax.lax.stop_gradient(logprobs)
        if objective.updates_per_rollout == 1
        else batch.sampler_logprobs
    )


def grpo_loss(
    logprobs: Float[Array, "B G T"],
    entropy: Float[Array, "B G T"],
    batch: GroupBatch,
    objective: ObjectiveConfig,
) -> Loss:
    """-(min(ratio A, clip(ratio) A) - beta KL) per token, aggregated as configured (Seg-R1; paper.md 1.5)."""
    bounds = {"low": objective.clip_low, "high": objective.clip_high}
    ratio = jnp.exp(log_ratio(logprobs, old_logprobs(logprobs, batch, objective)))
    penalty = LOSS_ESTIMATORS[objective.kl](logprobs, batch.reference_logprobs)
    per_token = -(clipped_surrogate(ratio, batch.advantages, **bounds) - objective.beta * penalty)
    value = AGGREGATIONS[objective.aggregation](per_token, batch.mask, batch.weight)
    means = {
        "entropy": completion_mean(entropy, batch.mask, batch.weight),
        "clip_fraction": token_mean(
            is_clipped(ratio, batch.advantages, **bounds).astype(jnp.float32),
            batch.mask,
            batch.weight,
        ),
    }
    # Without the penalty no reference is kept, and what stands in its place is the sampler's.
    for name, estimate in (("kl", k3), ("kl_k1", k1)) if objective.beta else ():
        distance = estimate(logprobs, batch.reference_logprobs)
        means[name] = completion_mean(distance, batch.mask, batch.weight)
    gap = jnp.abs(logprobs - batch.sampler_logprobs)
    maxima = {
        "sampler_gap": jnp.max(jnp.where(batch.mask, gap, 0.0)),
        "ratio_max": jnp.max(jnp.where(batch.mask, ratio, 0.0)),
    }
    return Loss(value, {"loss": value} | means, maxima)


def answer_loss(
    logprobs: Float[Array, "B G T"], entropy: Float[Array, "B G T"], batch: AnswerBatch
) -> Loss:
    """Mean over answers of the token mean of -logp; prompt tokens carry no loss."""
    value = completion_mean(-logprobs, batch.mask, batch.weight)
    return Loss(
        value, {"loss": value, "entropy": completion_mean(entropy, batch.mask, batch.weight)}, {}
    )

"""Losses as pure functions of log-probabilities per token (jax).

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
    """Loss and metrics of a micro-batch.

    Attributes:
        objective: the mean to minimize; its total is divided by its weight once all micro-batches
            are added up.
        means: metrics that are means, each with its own weight.
        maxima: metrics that are maxima.
    """

    objective: Mean
    means: dict[str, Mean]
    maxima: dict[str, Float[Array, ""]]


def clipped_surrogate(
    ratio: Float[Array, "B G T"], advantages_BG: Float[Array, "B G"], low: float, high: float
) -> Float[Array, "B G T"]:
    """Return PPO's min(ratio A, clip(ratio, 1 - low, 1 + high) A) per token."""
    advantages = advantages_BG[..., None]
    return jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - low, 1 + high) * advantages)


def is_clipped(
    ratio: Float[Array, "B G T"], advantages_BG: Float[Array, "B G"], low: float, high: float
) -> Bool[Array, "B G T"]:
    """Mark the tokens that have no gradient because of the clip.

    Their ratio is past the bound toward which the advantage moves it.
    """
    advantages = advantages_BG[..., None]
    return ((ratio > 1 + high) & (advantages > 0)) | ((ratio < 1 - low) & (advantages < 0))


def old_logprobs(
    logprobs: Float[Array, "B G T"], batch: GroupBatch, objective: ObjectiveConfig
) -> Float[Array, "B G T"]:
    """Return the log-probabilities under the policy that sampled: the denominator of the ratio.

    With one update per rollout, that policy is the policy being updated. The sampler's values then
    differ from `logprobs` only by rounding (at most 1e-4 in float32, the metric sampler_gap), and
    `logprobs` without gradient avoids this difference: exp(logp - stop_gradient(logp)) is exactly 1
    and has exactly the gradient of logp. With more updates the policies differ from the second
    update on, and only the sampler has the old values.
    """
    if objective.updates_per_rollout == 1:
        return jax.lax.stop_gradient(logprobs)
    return batch.sampler_logprobs


def grpo_loss(
    logprobs: Float[Array, "B G T"],
    entropy: Float[Array, "B G T"],
    batch: GroupBatch,
    objective: ObjectiveConfig,
) -> Loss:
    """Return the loss -(min(ratio A, clip(ratio) A) - beta KL) per token, aggregated as configured.

    The default configuration gives the loss of Seg-R1.
    """
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
    # Without the penalty there is no reference policy, and the batch repeats the sampler's
    # log-probabilities in its place: there is no KL to report.
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
    """Return the SFT loss: the mean over answers of the mean over tokens of -logp.

    Prompt tokens have no loss.
    """
    value = completion_mean(-logprobs, batch.mask, batch.weight)
    means = {"loss": value, "entropy": completion_mean(entropy, batch.mask, batch.weight)}
    return Loss(objective=value, means=means, maxima={})

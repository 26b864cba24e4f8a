"""The losses, as pure functions of per-token log-probabilities (jax).

Shape legend: B prompts; G completions per prompt; T completion tokens.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from segr1_jax.grpo.batch import AnswerBatch, GroupBatch
from segr1_jax.grpo.config import ObjectiveConfig

MAX_LOG_RATIO = 20.0  # exp of an unclipped log-ratio is the commonest NaN in GRPO runs


class Loss(NamedTuple):
    """A scalar to minimise; metrics that add up over micro-batches, and metrics that take the maximum.

    Value and sums are weighted sums over the completions; whoever adds up the micro-batches divides them by the total weight.
    """

    value: Float[Array, ""]
    sums: dict[str, Float[Array, ""]]
    maxima: dict[str, Float[Array, ""]]


def token_mean(values_BGT: Float[Array, "B G T"], mask_BGT: Bool[Array, "B G T"]) -> Float[Array, "B G"]:
    """Mean over the real tokens of each completion (0 for an empty one)."""
    return jnp.sum(jnp.where(mask_BGT, values_BGT, 0.0), axis=-1) / jnp.maximum(jnp.sum(mask_BGT, axis=-1), 1)


def log_ratio(new: Float[Array, "..."], old: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(new / old), clipped to +-20."""
    return jnp.clip(new - old, -MAX_LOG_RATIO, MAX_LOG_RATIO)


def k3(logprobs: Float[Array, "..."], reference: Float[Array, "..."]) -> Float[Array, "..."]:
    """Schulman's k3 estimate of KL(policy || reference) per token: r - log r - 1 with r = reference / policy; never negative."""
    r = log_ratio(reference, logprobs)
    return jnp.exp(r) - r - 1.0


def clipped_surrogate(ratio: Float[Array, "B G T"], advantages_BG: Float[Array, "B G"], clip: float) -> Float[Array, "B G T"]:
    """PPO's min(ratio A, clip(ratio, 1 - clip, 1 + clip) A) per token."""
    advantages = advantages_BG[..., None]
    return jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - clip, 1 + clip) * advantages)


def grpo_loss(logprobs: Float[Array, "B G T"], entropy: Float[Array, "B G T"], batch: GroupBatch, objective: ObjectiveConfig) -> Loss:
    """Sum over completions of the token mean of -(min(ratio A, clip(ratio) A) - beta k3) (Seg-R1; paper.md 1.5).

    One update is made per rollout, so the old policy is the current one: ratio = exp(logp - stop_gradient(logp)) = 1, exactly.
    """
    ratio = jnp.exp(log_ratio(logprobs, jax.lax.stop_gradient(logprobs)))
    kl = k3(logprobs, batch.reference_logprobs)
    per_token = -(clipped_surrogate(ratio, batch.advantages, objective.clip) - objective.beta * kl)

    def total(values_BGT):
        return jnp.sum(token_mean(values_BGT, batch.mask) * batch.weight)

    gap = jnp.where(batch.mask, jnp.abs(logprobs - batch.sampler_logprobs), 0.0)
    sums = {"loss": total(per_token), "kl": total(kl), "entropy": total(entropy)}
    return Loss(sums["loss"], sums, {"sampler_gap": jnp.max(gap)})


def answer_loss(logprobs: Float[Array, "B G T"], entropy: Float[Array, "B G T"], batch: AnswerBatch) -> Loss:
    """Sum over answers of the token mean of -logp; prompt tokens carry no loss."""
    value = jnp.sum(token_mean(-logprobs, batch.mask) * batch.weight)
    return Loss(value, {"loss": value, "entropy": jnp.sum(token_mean(entropy, batch.mask) * batch.weight)}, {})

"""Schulman's estimates of KL(policy || reference) from sampled tokens (jax, elementwise).

Source: joschu.net/blog/kl-approx.html. With r = reference / policy, on samples of the policy:

      value                           mean of the gradient of that value
k1    -log r                          0, because d k1 = d log policy has mean 0: k1 is a metric
      unbiased, of either sign        and never a loss
k2    (log r)^2 / 2                   exactly the gradient of KL(policy || reference)
      biased, never negative
k3    r - log r - 1                   the gradient of KL(reference || policy), the other direction;
      unbiased, never negative        the two agree where the policy is the reference

So k3, the paper's choice, measures one divergence and minimizes the other. Its gradient per token
is (1 - r) d log policy: the factor is unbounded where the reference gives a token a much larger
probability than the policy, and at most 1 where the reference gives it a smaller one. After the
first of several updates on a rollout, its tokens are no longer samples of the policy, and neither
the values nor the gradients of this table are exact.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

MAX_LOG_RATIO = 20.0  # exp of an unclipped log-ratio is the most common source of NaN in GRPO


def log_ratio(new: Float[Array, "..."], old: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return log(new / old), clipped to +-20."""
    return jnp.clip(new - old, -MAX_LOG_RATIO, MAX_LOG_RATIO)


def k1(logprobs: Float[Array, "..."], reference: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return -log r."""
    return log_ratio(logprobs, reference)


def k2(logprobs: Float[Array, "..."], reference: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return (log r)^2 / 2."""
    return 0.5 * jnp.square(log_ratio(logprobs, reference))


def k3(logprobs: Float[Array, "..."], reference: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return r - log r - 1."""
    r = log_ratio(reference, logprobs)
    return jnp.exp(r) - r - 1.0


LOSS_ESTIMATORS: dict[str, Callable] = {"k3": k3, "k2": k2}

"""Schulman's estimates of KL(policy || reference) from tokens the policy sampled (joschu.net/blog/kl-approx.html). Jax, elementwise.

With r = reference / policy, on samples of the policy itself:

      value                                       mean of the gradient, differentiated as it stands
k1    -log r; unbiased, of either sign            0: d k1 = d log policy, whose mean is 0, so k1 is a metric and never a loss
k2    (log r)^2 / 2; biased, never negative       that of KL(policy || reference), exactly
k3    r - log r - 1; unbiased, never negative     that of KL(reference || policy), the other direction; the two meet at the reference

So k3, the paper's choice, measures one divergence and descends on the other: (1 - r) d log policy pulls without bound where the
reference likes a token that the policy has all but given up, and with at most 1 where it is the other way round. After the first of
several updates on a rollout its tokens no longer come from the policy, and neither column is exact.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

MAX_LOG_RATIO = 20.0  # exp of an unclipped log-ratio is the commonest NaN in GRPO runs


def log_ratio(new: Float[Array, "..."], old: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(new / old), clipped to +-20."""
    return jnp.clip(new - old, -MAX_LOG_RATIO, MAX_LOG_RATIO)


def k1(logprobs: Float[Array, "..."], reference: Float[Array, "..."]) -> Float[Array, "..."]:
    """-log r."""
    return log_ratio(logprobs, reference)


def k2(logprobs: Float[Array, "..."], reference: Float[Array, "..."]) -> Float[Array, "..."]:
    """(log r)^2 / 2."""
    return 0.5 * jnp.square(log_ratio(logprobs, reference))


def k3(logprobs: Float[Array, "..."], reference: Float[Array, "..."]) -> Float[Array, "..."]:
    """r - log r - 1."""
    r = log_ratio(reference, logprobs)
    return jnp.exp(r) - r - 1.0


LOSS_ESTIMATORS: dict[str, Callable] = {"k3": k3, "k2": k2}

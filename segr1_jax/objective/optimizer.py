"""AdamW and its schedule, built from the configuration."""

import jax.numpy as jnp
import optax

from segr1_jax.objective.config import OptimizerConfig


def make_schedule(config: OptimizerConfig, updates: int) -> optax.Schedule:
    """Return a linear warm-up from 0, then a constant or a cosine to 0 at `updates`.

    The schedule counts the updates that the optimizer has made.
    """
    if config.schedule == "constant":
        after = optax.constant_schedule(config.learning_rate)
    else:
        decay_steps = max(updates - config.warmup_steps, 1)
        after = optax.cosine_decay_schedule(config.learning_rate, decay_steps)
    if config.warmup_steps == 0:
        return after
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig, updates: int) -> optax.GradientTransformation:
    """Return global-norm clipping followed by AdamW with the schedule."""
    return optax.chain(make_clip(config), _adamw(config, updates))


def make_clip(config: OptimizerConfig) -> optax.GradientTransformation:
    """Return the clipping alone; it needs the gradients of all weights and has no state."""
    return optax.clip_by_global_norm(config.max_grad_norm)


def make_unclipped(config: OptimizerConfig, updates: int) -> optax.GradientTransformation:
    """Return make_optimizer without its clipping, for any subset of the weights.

    Its state has the same structure.
    """
    return optax.chain(optax.identity(), _adamw(config, updates))


def _adamw(config: OptimizerConfig, updates: int) -> optax.GradientTransformation:
    return optax.adamw(
        make_schedule(config, updates),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mu_dtype=jnp.dtype(config.first_moment),
    )

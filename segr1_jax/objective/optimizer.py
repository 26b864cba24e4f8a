"""AdamW as configured."""

import optax

from segr1_jax.objective.config import OptimizerConfig


def make_schedule(config: OptimizerConfig, updates: int) -> optax.Schedule:
    """Linear warm-up from 0, then constant or a cosine to 0 at `updates`; both count the updates made."""
    after = (
        optax.constant_schedule(config.learning_rate)
        if config.schedule == "constant"
        else optax.cosine_decay_schedule(
            config.learning_rate, max(updates - config.warmup_steps, 1)
        )
    )
    if config.warmup_steps == 0:
        return after
    return optax.join_schedules(
        [optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps), after],
        [config.warmup_steps],
    )


def make_optimizer(config: OptimizerConfig, updates: int) -> optax.GradientTransformation:
    """Global-norm clipping, then AdamW on the schedule."""
    adamw = optax.adamw(
        make_schedule(config, updates),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), adamw)

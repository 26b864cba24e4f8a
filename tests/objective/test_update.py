"""Micro-batches of a loss add up to the update of the whole batch, whatever the loss divides by."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import TOL_SIMPLE

from segr1_jax.config.schema import GuardConfig
from segr1_jax.objective.aggregate import AGGREGATIONS
from segr1_jax.objective.batch import GroupBatch
from segr1_jax.objective.config import ObjectiveConfig
from segr1_jax.objective.loss import grpo_loss
from segr1_jax.objective.update import Totals, init_state, make_update
from segr1_jax.training.update_guard import is_sound

B, G, T = 4, 3, 5


def random_batch(seed):
    """Completions of many lengths, some left out, by a policy that has moved since it sampled."""
    rng = np.random.default_rng(seed)
    mask = np.arange(T) < rng.integers(1, T + 1, (B, G, 1))
    logprobs, old, reference = (
        np.where(mask, -rng.random((B, G, T)), 0).astype(np.float32) for _ in range(3)
    )
    advantages, weight = (
        rng.normal(size=(B, G)).astype(np.float32),
        rng.integers(0, 2, (B, G)).astype(np.float32),
    )
    weight[0, 0] = 1  # not all
    batch = GroupBatch(np.zeros((B, G, T), np.int32), mask, weight, advantages, old, reference)
    return jax.tree.map(jnp.asarray, (logprobs, batch))


def totals_of(objective, logprobs, batch) -> Totals:
    """The totals of a policy with two parameters."""

    def objective_of(params):
        result = grpo_loss(
            params["scale"] * logprobs + params["shift"] * batch.mask,
            jnp.ones_like(logprobs),
            batch,
            objective,
        )
        return result.objective.total, result

    gradient, result = jax.grad(objective_of, has_aux=True)(PARAMS)
    return Totals(gradient, result.means, result.maxima, result.objective.weight)


def add_totals(a: Totals, b: Totals) -> Totals:
    gradient, means, weight = jax.tree.map(
        jnp.add, (a.gradient, a.means, a.weight), (b.gradient, b.means, b.weight)
    )
    return Totals(gradient, means, jax.tree.map(jnp.maximum, a.maxima, b.maxima), weight)


PARAMS = {"scale": jnp.float32(1.1), "shift": jnp.float32(0.05)}
OPTIMIZER = optax.trace(decay=0.0)  # its state is the gradient
UPDATE = make_update(OPTIMIZER, functools.partial(is_sound, guard=GuardConfig()))


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**31), st.sampled_from(sorted(AGGREGATIONS)), st.sampled_from([1, 2]))
def test_micro_batches_make_the_update_of_the_whole(seed, aggregation, rows):
    objective = ObjectiveConfig(aggregation=aggregation, updates_per_rollout=2)
    whole = random_batch(seed)
    parts = [
        jax.tree.map(lambda x, start=start: x[start : start + rows], whole)
        for start in range(0, B, rows)
    ]
    added = functools.reduce(add_totals, [totals_of(objective, *part) for part in parts])
    (found, metrics), (expected, wanted) = (
        UPDATE(init_state(PARAMS, OPTIMIZER), totals, jnp.int32(1))
        for totals in (added, totals_of(objective, *whole))
    )
    for name in PARAMS:
        np.testing.assert_allclose(
            found.opt_state.trace[name], expected.opt_state.trace[name], rtol=1e-4, atol=TOL_SIMPLE
        )
    for name in wanted:
        np.testing.assert_allclose(
            metrics[name], wanted[name], rtol=1e-4, atol=TOL_SIMPLE, err_msg=name
        )

"""One optimiser update: score the completions, differentiate a loss, step AdamW.

Shape legend: B prompts; G completions per prompt; T completion tokens.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from segr1_jax.grpo.batch import AnswerBatch, GroupBatch
from segr1_jax.grpo.loss import Loss
from segr1_jax.policy.logprobs import score_tokens
from segr1_jax.policy.model import PromptBatch
from segr1_jax.policy.params import Params, Policy

LossFn = Callable[[Float[Array, "B G T"], Float[Array, "B G T"], Any], Loss]


class TrainState(NamedTuple):
    """Float32 master weights, optimiser state and the number of updates made."""

    params: Params
    opt_state: optax.OptState
    step: Int[Array, ""]


class TrainBatch(NamedTuple):
    """Prompts with their completions, all leading axes B."""

    prompts: PromptBatch
    completions: AnswerBatch | GroupBatch


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """Step 0."""
    return TrainState(params, optimizer.init(params), jnp.int32(0))


def make_train_step(
    policy: Policy, loss: LossFn, optimizer: optax.GradientTransformation, *, temperature: float, head_chunk: int, micro_batches: int
) -> Callable[[TrainState, TrainBatch], tuple[TrainState, dict[str, Array]]]:
    """A pure function `(state, batch) -> (state, metrics)`, to be jitted (state donated) by the caller.

    The loss weights sum to 1 over the whole batch, so gradients and summed metrics of micro-batches simply add up.
    """

    def objective(params: Params, batch: TrainBatch):
        done = batch.completions
        scores = score_tokens(policy.bind(params), batch.prompts, done.tokens, done.mask, temperature=temperature, chunk=head_chunk)
        result = loss(scores.logprobs, scores.entropy, done)
        return result.value, (result.sums, result.maxima)

    def gradients(params: Params, batch: TrainBatch):
        if micro_batches == 1:
            grads, (sums, maxima) = jax.grad(objective, has_aux=True)(params, batch)
            return grads, sums | maxima
        return _accumulate(jax.grad(objective, has_aux=True), params, batch, micro_batches)

    def step(state: TrainState, batch: TrainBatch):
        grads, metrics = gradients(state.params, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, opt_state, state.step + 1), metrics | {"grad_norm": optax.global_norm(grads)}

    return step


def _accumulate(grad_fn, params: Params, batch: TrainBatch, micro_batches: int):
    """Scan over micro-batches. Rows are dealt out in turn, so a batch split over devices stays split in every micro-batch."""

    def deal(x):
        return jnp.swapaxes(x.reshape(x.shape[0] // micro_batches, micro_batches, *x.shape[1:]), 0, 1)

    def add(total, micro):
        grads, (sums, maxima) = grad_fn(params, micro)
        total_grads, total_sums, total_maxima = total
        return (
            jax.tree.map(jnp.add, total_grads, grads),
            jax.tree.map(jnp.add, total_sums, sums),
            jax.tree.map(jnp.maximum, total_maxima, maxima),
        ), None

    micros = jax.tree.map(deal, batch)
    shapes = jax.eval_shape(grad_fn, params, jax.tree.map(lambda x: x[0], micros))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (shapes[0], *shapes[1]))
    (grads, sums, maxima), _ = jax.lax.scan(add, zeros, micros)
    return grads, sums | maxima

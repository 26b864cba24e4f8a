"""One optimiser update: score the completions, differentiate a loss over micro-batches, step AdamW.

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
    """Float32 master weights of what is trained, optimiser state and the number of updates made."""

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


class Totals(NamedTuple):
    """What micro-batches add up to: gradient and metrics, not yet divided by the weight of their completions."""

    gradient: Params
    sums: dict[str, Float[Array, ""]]
    maxima: dict[str, Float[Array, ""]]
    weight: Float[Array, ""]


def make_gradient(policy: Policy, loss: LossFn, *, temperature: float, head_chunk: int) -> Callable[[Params, Params, TrainBatch], Totals]:
    """A pure function `(trained, frozen, micro-batch) -> Totals` of the two halves of the weights, to be jitted by the caller.

    The loss is a weighted sum over completions, so micro-batches simply add up, and one may be differentiated before the rewards of
    the next are known.
    """

    def objective(trained: Params, frozen: Params, batch: TrainBatch):
        done = batch.completions
        scores = score_tokens(
            policy.bind(frozen | trained), batch.prompts, done.tokens, done.mask, temperature=temperature, chunk=head_chunk
        )
        result = loss(scores.logprobs, scores.entropy, done)
        return result.value, (result.sums, result.maxima)

    def gradient(trained: Params, frozen: Params, batch: TrainBatch) -> Totals:
        grads, (sums, maxima) = jax.grad(objective, has_aux=True)(trained, frozen, batch)
        return Totals(grads, sums, maxima, jnp.sum(batch.completions.weight))

    return gradient


def add_totals(a: Totals, b: Totals) -> Totals:
    """The totals of two micro-batches together."""
    gradient, sums, weight = jax.tree.map(jnp.add, (a.gradient, a.sums, a.weight), (b.gradient, b.sums, b.weight))
    return Totals(gradient, sums, jax.tree.map(jnp.maximum, a.maxima, b.maxima), weight)


def make_update(optimizer: optax.GradientTransformation) -> Callable[[TrainState, Totals], tuple[TrainState, dict[str, Array]]]:
    """A pure function `(state, totals) -> (state, metrics)`, to be jitted (both donated) by the caller. No weight leaves all at 0."""

    def update(state: TrainState, totals: Totals):
        share = 1.0 / jnp.maximum(totals.weight, 1.0)
        grads, sums = jax.tree.map(lambda total: total * share, (totals.gradient, totals.sums))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, opt_state, state.step + 1), sums | totals.maxima | {"grad_norm": optax.tree.norm(grads)}

    return update

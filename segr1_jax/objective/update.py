"""One optimiser update: score the completions, differentiate a loss over micro-batches, step AdamW.

Shape legend: B prompts; G completions per prompt; T completion tokens.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from segr1_jax.objective.aggregate import Mean
from segr1_jax.objective.batch import AnswerBatch, GroupBatch
from segr1_jax.objective.loss import Loss
from segr1_jax.policy.logprobs import score_tokens
from segr1_jax.policy.params import Params, Policy
from segr1_jax.policy.qwen2_5_vl.model import PromptBatch

LossFn = Callable[[Float[Array, "B G T"], Float[Array, "B G T"], Any], Loss]
SoundFn = Callable[[dict[str, Array]], Bool[Array, ""]]


class Skips(NamedTuple):
    """Updates that were skipped: in a row up to now, and since the beginning."""

    in_a_row: Int[Array, ""]
    total: Int[Array, ""]


class TrainState(NamedTuple):
    """Float32 master weights of what is trained, optimiser state, the steps (batches) seen, and the updates skipped.

    The optimiser counts the updates it made, which its schedule follows: several a step where a rollout gets several, none for a
    skipped one.
    """

    params: Params
    opt_state: optax.OptState
    step: Int[Array, ""]
    skips: Skips


class TrainBatch(NamedTuple):
    """Prompts with their completions, all leading axes B."""

    prompts: PromptBatch
    completions: AnswerBatch | GroupBatch


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """Step 0."""
    return TrainState(
        params, optimizer.init(params), jnp.int32(0), Skips(jnp.int32(0), jnp.int32(0))
    )


class Totals(NamedTuple):
    """What micro-batches add up to: gradient and metrics, not yet divided by their weights. `weight` is that of the gradient."""

    gradient: Params
    means: dict[str, Mean]
    maxima: dict[str, Float[Array, ""]]
    weight: Float[Array, ""]


class Gradient(NamedTuple):
    """The two programs of gradient accumulation, pure functions to be jitted by the caller.

    Attributes:
        zeros: (trained, frozen, micro-batch) -> the Totals of no micro-batch. Only shapes are read.
        add: (totals, trained, frozen, micro-batch) -> totals with those of the micro-batch. Donate
            the totals: the backward pass adds to them layer by layer, so one float32 gradient lives.
    """

    zeros: Callable[[Params, Params, TrainBatch], Totals]
    add: Callable[[Totals, Params, Params, TrainBatch], Totals]


def make_gradient(policy: Policy, loss: LossFn, *, temperature: float, head_chunk: int) -> Gradient:
    """The gradient of `loss` with respect to the trained half of the weights, over micro-batches.

    What is differentiated is the loss's sum, before the division by the weight that the loss
    defines (completions, or tokens), so micro-batches simply add up, and one may be differentiated
    before the rewards of the next are known.
    """

    def objective(trained: Params, frozen: Params, batch: TrainBatch):
        done = batch.completions
        scores = score_tokens(
            policy.bind(frozen | trained),
            batch.prompts,
            done.tokens,
            done.mask,
            temperature=temperature,
            chunk=head_chunk,
        )
        with jax.named_scope("loss"):
            result = loss(scores.logprobs, scores.entropy, done)
        return result.objective.total, result

    def zeros(trained: Params, frozen: Params, batch: TrainBatch) -> Totals:
        result = jax.eval_shape(objective, trained, frozen, batch)[1]
        gradient, means, weight = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), (trained, result.means, result.objective.weight)
        )
        maxima = jax.tree.map(lambda x: jnp.full(x.shape, -jnp.inf, x.dtype), result.maxima)
        return Totals(gradient, means, maxima, weight)

    def add(totals: Totals, trained: Params, frozen: Params, batch: TrainBatch) -> Totals:
        # Plain jax.grad stacks the gradients of all layers before they could be added: a second
        # whole gradient. The cotangents go into references to the totals instead.
        references = jax.tree.map(jax.new_ref, totals.gradient)
        total, backward, result = jax.vjp(
            lambda weights: objective(weights, frozen, batch), trained, has_aux=True
        )
        backward.with_refs(references)(jnp.ones_like(total))
        means, weight = jax.tree.map(
            jnp.add, (totals.means, totals.weight), (result.means, result.objective.weight)
        )
        maxima = jax.tree.map(jnp.maximum, totals.maxima, result.maxima)
        return Totals(jax.tree.map(jax.freeze, references), means, maxima, weight)

    return Gradient(zeros, add)


def make_update(
    optimizer: optax.GradientTransformation, is_sound: SoundFn
) -> Callable[[TrainState, Totals, Int[Array, ""]], tuple[TrainState, dict[str, Array]]]:
    """A pure function `(state, totals, step) -> (state, metrics)`, to be jitted (state donated) by the caller. No weight leaves all at 0.

    `step` is the number of the batch that the totals are of. An update whose metrics are not `is_sound` is skipped: weights and
    optimiser state keep their bits. The metrics are of the whole batch, so all devices and processes skip alike.
    """

    def update(state: TrainState, totals: Totals, step: Int[Array, ""]):
        grads = jax.tree.map(lambda total: total * _share(totals.weight), totals.gradient)
        means = {name: mean.total * _share(mean.weight) for name, mean in totals.means.items()}
        metrics = means | totals.maxima | {"grad_norm": optax.tree.norm(grads)}
        sound = is_sound(metrics)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            stepped = optax.apply_updates(state.params, updates), opt_state
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(sound, new, old), stepped, (state.params, state.opt_state)
        )
        skips = Skips(jnp.where(sound, 0, state.skips.in_a_row + 1), state.skips.total + ~sound)
        counts = {
            "skipped_update": jnp.int32(~sound),
            "skipped_in_a_row": skips.in_a_row,
            "skipped_total": skips.total,
        }
        return TrainState(params, opt_state, jnp.int32(step), skips), metrics | counts

    return update


def _share(weight: Float[Array, ""]) -> Float[Array, ""]:
    return 1.0 / jnp.maximum(weight, 1.0)

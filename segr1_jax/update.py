"""One optimiser update: score the completions, differentiate a loss over micro-batches, step AdamW.

Shape legend: B prompts; G completions per prompt; T completion tokens.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from segr1_jax.grpo.aggregate import Mean
from segr1_jax.grpo.batch import AnswerBatch, GroupBatch
from segr1_jax.grpo.loss import Loss
from segr1_jax.policy.logprobs import score_tokens
from segr1_jax.policy.model import PromptBatch
from segr1_jax.policy.params import Params, Policy

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


def make_gradient(
    policy: Policy, loss: LossFn, *, temperature: float, head_chunk: int
) -> Callable[[Params, Params, TrainBatch], Totals]:
    """A pure function `(trained, frozen, micro-batch) -> Totals` of the two halves of the weights, to be jitted by the caller.

    What is differentiated is the loss's sum, before the division by the weight that the loss defines (completions, or tokens), so
    micro-batches simply add up, and one may be differentiated before the rewards of the next are known.
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

    def gradient(trained: Params, frozen: Params, batch: TrainBatch) -> Totals:
        grads, result = jax.grad(objective, has_aux=True)(trained, frozen, batch)
        return Totals(grads, result.means, result.maxima, result.objective.weight)

    return gradient


def add_totals(a: Totals, b: Totals) -> Totals:
    """The totals of two micro-batches together."""
    gradient, means, weight = jax.tree.map(
        jnp.add, (a.gradient, a.means, a.weight), (b.gradient, b.means, b.weight)
    )
    return Totals(gradient, means, jax.tree.map(jnp.maximum, a.maxima, b.maxima), weight)


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

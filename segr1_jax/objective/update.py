"""One optimizer update: score completions, accumulate the gradient of a loss, step AdamW.

Shape legend: B prompts; G completions per prompt; T completion tokens.
"""

import functools
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
    """Number of skipped updates: in a row up to the last update, and in total."""

    in_a_row: Int[Array, ""]
    total: Int[Array, ""]


class TrainState(NamedTuple):
    """State of training.

    Attributes:
        params: float32 master weights, of the trained weights only.
        opt_state: state of the optimizer. It counts the updates made, which the schedule follows:
            several per step with several updates per rollout, none for a skipped update.
        step: number of the last batch.
        skips: number of skipped updates.
    """

    params: Params
    opt_state: optax.OptState
    step: Int[Array, ""]
    skips: Skips


class TrainBatch(NamedTuple):
    """Prompts with their completions; the first axis of every array is B."""

    prompts: PromptBatch
    completions: AnswerBatch | GroupBatch


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first step."""
    return TrainState(
        params=params,
        opt_state=optimizer.init(params),
        step=jnp.int32(0),
        skips=Skips(in_a_row=jnp.int32(0), total=jnp.int32(0)),
    )


class Totals(NamedTuple):
    """Sums over micro-batches: gradient and metrics, not yet divided by their weights.

    `weight` is the weight of the gradient.
    """

    gradient: Params
    means: dict[str, Mean]
    maxima: dict[str, Float[Array, ""]]
    weight: Float[Array, ""]


class Gradient(NamedTuple):
    """Two programs of gradient accumulation, pure functions to be jitted by the caller.

    Attributes:
        zeros: (trained, frozen, micro-batch) -> Totals of no micro-batch. Only shapes are read.
        add: (totals, trained, frozen, micro-batch, slots) -> totals plus those of the micro-batch.
            Donate the totals: the backward pass adds to them layer by layer, so only one float32
            gradient is in memory. `slots` is that of score_tokens, and static.
    """

    zeros: Callable[[Params, Params, TrainBatch], Totals]
    add: Callable[..., Totals]


def make_gradient(policy: Policy, loss: LossFn, *, temperature: float, head_chunk: int) -> Gradient:
    """Return the programs for the gradient of `loss` with respect to the trained weights.

    They differentiate the sum of the loss, before the division by the weight that the loss defines
    (a number of completions or tokens). So micro-batches simply add up, and one can be
    differentiated before the rewards of the next are known.
    """

    def objective(trained: Params, frozen: Params, batch: TrainBatch, slots: int | None):
        completions = batch.completions
        scores = score_tokens(
            policy.bind(frozen | trained),
            batch.prompts,
            completions.tokens,
            completions.mask,
            temperature=temperature,
            chunk=head_chunk,
            slots=slots,
        )
        with jax.named_scope("loss"):
            result = loss(scores.logprobs, scores.entropy, completions)
        return result.objective.total, result

    def zeros(trained: Params, frozen: Params, batch: TrainBatch) -> Totals:
        whole = functools.partial(objective, slots=None)
        result = jax.eval_shape(whole, trained, frozen, batch)[1]
        gradient, means, weight = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), (trained, result.means, result.objective.weight)
        )
        maxima = jax.tree.map(lambda x: jnp.full(x.shape, -jnp.inf, x.dtype), result.maxima)
        return Totals(gradient, means, maxima, weight)

    def add(
        totals: Totals, trained: Params, frozen: Params, batch: TrainBatch, slots: int | None = None
    ) -> Totals:
        # jax.grad would stack the gradients of all layers before they are added to the totals: the
        # memory of a second gradient. With references to the totals the backward pass adds the
        # cotangents of each layer in place.
        references = jax.tree.map(jax.new_ref, totals.gradient)
        total, backward, result = jax.vjp(
            lambda weights: objective(weights, frozen, batch, slots), trained, has_aux=True
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
    """Return a pure function `(state, totals, step) -> (state, metrics)`.

    The caller jits it and donates the state. `step` is the number of the batch of the totals. An
    update whose metrics are not `is_sound` is skipped: weights and optimizer state are unchanged.
    The metrics are of the whole batch, so all devices and processes skip the same updates. Totals
    without any weight give a gradient and means of 0.
    """

    def update(state: TrainState, totals: Totals, step: Int[Array, ""]):
        grads, metrics = mean_gradient(totals)
        sound = is_sound(metrics)
        params, opt_state = step_weights(optimizer, state.params, state.opt_state, grads, sound)
        skips, counts = count_skips(state.skips, sound)
        return TrainState(params, opt_state, jnp.int32(step), skips), metrics | counts

    return update


def mean_gradient(totals: Totals) -> tuple[Params, dict[str, Array]]:
    """Return the gradient of a batch and its metrics, with the norm of the gradient."""
    grads = jax.tree.map(lambda total: total * _share(totals.weight), totals.gradient)
    means = {name: mean.total * _share(mean.weight) for name, mean in totals.means.items()}
    return grads, means | totals.maxima | {"grad_norm": optax.tree.norm(grads)}


def step_weights(
    optimizer: optax.GradientTransformation,
    params: Params,
    opt_state: optax.OptState,
    grads: Params,
    sound: Bool[Array, ""],
) -> tuple[Params, optax.OptState]:
    """Return weights and optimizer state after a step, or unchanged where it is not sound."""
    with jax.named_scope("optimizer"):
        updates, stepped = optimizer.update(grads, opt_state, params)
        after = optax.apply_updates(params, updates), stepped
    return jax.tree.map(lambda new, old: jnp.where(sound, new, old), after, (params, opt_state))


def count_skips(skips: Skips, sound: Bool[Array, ""]) -> tuple[Skips, dict[str, Array]]:
    """Return the numbers of skipped updates after this one, and the same as metrics."""
    skips = Skips(jnp.where(sound, 0, skips.in_a_row + 1), skips.total + ~sound)
    return skips, {
        "skipped_update": jnp.int32(~sound),
        "skipped_in_a_row": skips.in_a_row,
        "skipped_total": skips.total,
    }


def _share(weight: Float[Array, ""]) -> Float[Array, ""]:
    # A weight of 0 comes with a total of 0; other weights are at least 1.
    return 1.0 / jnp.maximum(weight, 1.0)

"""The update of objective/update.py in parts: one for all weights, then one for each weight.

The moments of one weight at a time are on the devices. In one program XLA's GPU compiler fetches
the moments of all weights from the host before the first is updated, with or without optimization
barriers.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from segr1_jax.objective.update import (
    Skips,
    SoundFn,
    Totals,
    count_skips,
    mean_gradient,
    step_weights,
)
from segr1_jax.policy.params import Params

# The name of the one weight in the tree of a part: weights of one shape share a program.
WEIGHT = "weight"


class Clipped(NamedTuple):
    """Clipped gradient of all weights, and what the steps of the weights share.

    Attributes:
        gradient: clipped to the global norm.
        sound: False if the update is skipped.
        skips: numbers of skipped updates, with this one.
        step: number of the batch of the gradient.
        metrics: those of the update.
    """

    gradient: Params
    sound: Bool[Array, ""]
    skips: Skips
    step: Int[Array, ""]
    metrics: dict[str, Array]


def make_clipping(
    clip: optax.GradientTransformation, is_sound: SoundFn
) -> Callable[[Totals, Skips, Int[Array, ""]], Clipped]:
    """Return a pure function `(totals, skips, step) -> Clipped`; the caller donates the totals."""

    def clipped(totals: Totals, skips: Skips, step: Int[Array, ""]) -> Clipped:
        grads, metrics = mean_gradient(totals)
        sound = is_sound(metrics)
        with jax.named_scope("optimizer"):
            grads, _ = clip.update(grads, clip.init(grads))
        skips, counts = count_skips(skips, sound)
        return Clipped(grads, sound, skips, jnp.int32(step), metrics | counts)

    return clipped


def make_step_of_weight(
    optimizer: optax.GradientTransformation,
) -> Callable[..., tuple[Float[Array, "*shape"], optax.OptState]]:
    """Return a pure function `(weight, optimizer state, gradient, sound) -> (weight, state)`.

    The state is that of `of_weight`, on the host or on the device; the caller's out_shardings
    say where the new one goes. `optimizer` does not clip.
    """

    def step(weight, opt_state, gradient, sound):
        # A copy to the device, where the state is on the host.
        opt_state = jax.tree.map(
            lambda x: jax.device_put(x, jax.memory.Space.Device) if jnp.ndim(x) else x, opt_state
        )
        params, opt_state = step_weights(
            optimizer, {WEIGHT: weight}, opt_state, {WEIGHT: gradient}, sound
        )
        return params[WEIGHT], opt_state

    return step


def of_weight(opt_state: Any, name: str) -> Any:
    """Return the part of a state of optax for one weight, or of any tree of its structure."""
    return jax.tree.map(
        lambda part: {WEIGHT: part[name]} if _by_name(part) else part, opt_state, is_leaf=_by_name
    )


def of_all_weights(parts: Mapping[str, Any]) -> Any:
    """Return the state of optax that has these parts; its counters are those of the last part."""

    def join(*each: Any) -> Any:
        if not _by_name(each[0]):
            return each[-1]
        return {name: part[WEIGHT] for name, part in zip(parts, each, strict=True)}

    return jax.tree.map(join, *parts.values(), is_leaf=_by_name)


def _by_name(part: Any) -> bool:
    # Weights and moments are the only mappings in the states of our optimizer.
    return isinstance(part, dict)

"""Programs of the state of training, with the moments of the optimizer on devices or on hosts."""

import functools
from collections.abc import Hashable, Mapping

import jax
import jax.numpy as jnp
import optax

from segr1_jax.config.schema import RunConfig
from segr1_jax.objective.optimizer import make_clip, make_unclipped
from segr1_jax.objective.update import Skips, Totals, TrainState, init_state, make_update
from segr1_jax.objective.update_by_weight import (
    WEIGHT,
    Clipped,
    make_clipping,
    make_step_of_weight,
    of_all_weights,
    of_weight,
)
from segr1_jax.policy.params import Params
from segr1_jax.runtime.compiled_functions import Watched
from segr1_jax.training.update_guard import is_sound

# The name of the program of a weight begins with it.
STEP_OF = "step_of_"


class DeviceMoments:
    """The programs where the moments are on the devices.

    Attributes:
        init: trained weights -> TrainState at step 0.
        update: (state, totals, step) -> (state, metrics), in the buffers of the state.
    """

    def __init__(
        self, config: RunConfig, optimizer: optax.GradientTransformation, shardings: TrainState
    ):
        self.init = Watched(
            "init_state",
            lambda params: init_state(params, optimizer),
            out_shardings=shardings,
        )
        self.update = Watched(
            "update",
            make_update(optimizer, functools.partial(is_sound, guard=config.guard)),
            donate_argnums=0,
            out_shardings=(shardings, shardings.step),
        )


class HostMoments:
    """The programs where the moments are on the hosts, copied weight by weight for an update.

    Attributes:
        clip: (totals, skips, step) -> Clipped, in the buffers of the totals.
        steps: by weight, (weight, its optimizer state, gradient, sound) -> (weight, optimizer
            state). Weights of the same shape and sharding have the same program.
    """

    def __init__(
        self, config: RunConfig, shapes: Mapping[str, jax.ShapeDtypeStruct], shardings: TrainState
    ):
        self._shardings = shardings
        replicated = shardings.step
        self.clip = Watched(
            "clip_gradient",
            make_clipping(
                make_clip(config.optimizer), functools.partial(is_sound, guard=config.guard)
            ),
            donate_argnums=0,
            out_shardings=Clipped(
                shardings.params, replicated, shardings.skips, replicated, replicated
            ),
        )
        optimizer = make_unclipped(config.optimizer, config.updates)
        first_of = _first_of_kind(
            {name: (shapes[name].shape, shardings.params[name]) for name in shapes}
        )
        states = {name: of_weight(shardings.opt_state, name) for name in first_of.values()}
        steps = {
            name: Watched(
                f"{STEP_OF}{name}",
                make_step_of_weight(optimizer),
                donate_argnums=0,
                out_shardings=(shardings.params[name], state),
            )
            for name, state in states.items()
        }
        inits = {
            name: Watched(
                f"init_of_{name}",
                lambda weight: optimizer.init({WEIGHT: weight}),
                out_shardings=state,
            )
            for name, state in states.items()
        }
        self.steps = {name: steps[first] for name, first in first_of.items()}
        self._inits = {name: inits[first] for name, first in first_of.items()}
        self._zero = Watched("zero", lambda: jnp.int32(0), out_shardings=replicated)

    def init(self, params: Params) -> TrainState:
        """Return the state at step 0; it has the arrays of `params`, not copies."""
        parts = {name: self._inits[name](weight) for name, weight in params.items()}
        zero = self._zero()
        return TrainState(dict(params), of_all_weights(parts), zero, Skips(zero, zero))

    def update(
        self, state: TrainState, totals: Totals, step: int
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Make an update, as objective.update.make_update does; it takes state and totals."""
        gradient, sound, skips, number, metrics = self.clip(totals, state.skips, step)
        params, parts = {}, {}
        for name, step_of_weight in self.steps.items():
            before = of_weight(state.opt_state, name)
            params[name], parts[name] = step_of_weight(
                state.params[name], before, gradient.pop(name), sound
            )
            # The moments of one weight at a time are on the devices, and twice on the host.
            jax.block_until_ready(parts[name])
            # Not donated: a checkpoint that is being written may read them in place. Once deleted,
            # their memory is free as soon as the last reader is done.
            for moment in jax.tree.leaves(before):
                if moment.ndim:
                    moment.delete()
        return TrainState(params, of_all_weights(parts), number, skips), metrics


def _first_of_kind(kinds: Mapping[str, Hashable]) -> dict[str, str]:
    """Return, for each name, the first name of its kind."""
    first: dict[Hashable, str] = {}
    return {name: first.setdefault(kind, name) for name, kind in kinds.items()}

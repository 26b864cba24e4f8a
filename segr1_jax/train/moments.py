"""Programs of the state of training, with the moments of the optimizer on devices or on hosts."""

import functools

import jax
import numpy as np
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
from segr1_jax.train.update_guard import is_sound


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
        clip: (totals, skips) -> Clipped, in the buffers of the totals.
        steps: (weight, its optimizer state, gradient, sound) -> (weight, optimizer state), by the
            sharding of the weight.
    """

    def __init__(self, config: RunConfig, shardings: TrainState):
        self._shardings = shardings
        replicated, sound = shardings.step, functools.partial(is_sound, guard=config.guard)
        self.clip = Watched(
            "clip_gradient",
            make_clipping(make_clip(config.optimizer), sound),
            donate_argnums=0,
            out_shardings=Clipped(shardings.params, replicated, shardings.skips, replicated),
        )
        optimizer = make_unclipped(config.optimizer, config.updates)
        # Weights of the same shape and sharding share a program.
        states = {
            sharding: of_weight(shardings.opt_state, name)
            for name, sharding in shardings.params.items()
        }
        self.steps = {
            sharding: Watched(
                "step_of_weight",
                make_step_of_weight(optimizer),
                donate_argnums=0,
                out_shardings=(sharding, state),
            )
            for sharding, state in states.items()
        }
        self._inits = {
            sharding: Watched(
                "init_of_weight",
                lambda weight: optimizer.init({WEIGHT: weight}),
                out_shardings=state,
            )
            for sharding, state in states.items()
        }

    def init(self, params: Params) -> TrainState:
        """Return the state at step 0; it has the arrays of `params`, not copies."""
        parts = {
            name: self._inits[self._shardings.params[name]](weight)
            for name, weight in params.items()
        }
        zero = jax.device_put(np.int32(0), self._shardings.step)
        return TrainState(dict(params), of_all_weights(parts), zero, Skips(zero, zero))

    def update(
        self, state: TrainState, totals: Totals, step: int
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Make an update, as objective.update.make_update does; it takes state and totals."""
        gradient, sound, skips, metrics = self.clip(totals, state.skips)
        params, parts = {}, {}
        for name, sharding in self._shardings.params.items():
            before = of_weight(state.opt_state, name)
            params[name], parts[name] = self.steps[sharding](
                state.params[name], before, gradient.pop(name), sound
            )
            # Not donated: a checkpoint that is being written may read them in place. Once deleted,
            # their memory is free as soon as the last reader is done.
            for moment in jax.tree.leaves(before):
                if moment.ndim:
                    moment.delete()
        number = jax.device_put(np.int32(step), self._shardings.step)
        return TrainState(params, of_all_weights(parts), number, skips), metrics

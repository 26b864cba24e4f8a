"""The programs of an update, and the bytes of moments that are on the host."""

import math
import os
from dataclasses import dataclass

import jax
import numpy as np

from segr1_jax.config.hardware import TPUS, Device
from segr1_jax.errors import UserError
from segr1_jax.objective.update import Totals, TrainState
from segr1_jax.objective.update_by_weight import of_weight
from segr1_jax.plan.program import Program, shard_bytes
from segr1_jax.training.engine import Engine
from segr1_jax.training.moments import HostMoments

# XLA's limit of pinned memory for each GPU, in GiB, and the variable that sets another.
POOL_GB, POOL_VARIABLE = 64, "XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB"


@dataclass(frozen=True)
class PinnedMoments:
    """Moments in the pinned memory of the hosts, of the weights on one device.

    Attributes:
        bytes: of the moments of all weights.
        largest: of those of the weight that has the most.
    """

    bytes: float
    largest: float

    @property
    def in_flight(self) -> float:
        """Bytes on the device while a weight is updated: its moments before and after.

        The compiler's figures leave them out: the devices of a topology have no memories, so JAX
        drops the memory of the host from the program.
        """
        return 2 * self.largest

    @property
    def pinned(self) -> float:
        """Bytes of pinned memory: those of one weight are there twice during its update."""
        return self.bytes + self.largest

    @property
    def copied(self) -> float:
        """Bytes of the copies of an update, to the device and back, one after the other."""
        return 2 * self.bytes

    @property
    def calls_of_largest(self) -> float:
        """The number of updates of the largest weight that move the bytes of all weights."""
        return self.bytes / self.largest


def pinned_pool(device: Device) -> float:
    """Return the bytes of pinned memory that XLA takes for each device at most.

    Raises:
        UserError: the variable that sets it for GPUs is not a number.
    """
    if device.name in TPUS:
        return math.inf
    given = os.environ.get(POOL_VARIABLE, str(POOL_GB))
    try:
        return float(given) * 2**30
    except ValueError as error:
        raise UserError(
            POOL_VARIABLE,
            expected="a number of GiB",
            got=repr(given),
            remedy=f"unset it for XLA's default of {POOL_GB}",
        ) from error


def update_programs(engine: Engine, state: TrainState, totals: Totals) -> tuple[Program, ...]:
    """Return the programs of an update; for moments on the host the one of the largest weight."""
    moments = engine.moments
    number = jax.ShapeDtypeStruct((), np.int32)
    if not isinstance(moments, HostMoments):
        return (Program(moments.update.name, moments.update, (state, totals, number)),)
    name = largest_weight(state)
    weight = state.params[name]
    sound = jax.ShapeDtypeStruct((), np.bool_, sharding=engine.placement.replicated)
    step = moments.steps[name]
    return (
        Program(moments.clip.name, moments.clip, (totals, state.skips, number)),
        Program(step.name, step, (weight, of_weight(state.opt_state, name), weight, sound)),
    )


def pinned_moments(engine: Engine, state: TrainState) -> PinnedMoments | None:
    """Return the sizes of moments on the host; None where they are on the devices."""
    if not isinstance(engine.moments, HostMoments):
        return None
    largest = of_weight(state.opt_state, largest_weight(state))
    return PinnedMoments(shard_bytes(state.opt_state), shard_bytes(largest))


def largest_weight(state: TrainState) -> str:
    """Return the trained weight of which a device has the most bytes."""
    return max(state.params, key=lambda name: shard_bytes(state.params[name]))

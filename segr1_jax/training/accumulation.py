"""Gradient accumulation over the micro-batches of an update."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax

from segr1_jax.objective.update import Totals, TrainBatch
from segr1_jax.policy.params import Params
from segr1_jax.runtime.compiled_functions import Watched


@dataclass
class Accumulation:
    """The compiled programs of objective.update.Gradient, one of `add` for each capacity."""

    zeros: Watched
    add: Watched
    capacities: Sequence[int]
    _is_warm: bool = field(default=False, init=False)

    def __call__(
        self,
        totals: Totals | None,
        trained: Params,
        frozen: Params,
        micro: TrainBatch,
        capacity: int,
    ) -> Totals:
        """Return totals with those of `micro` added, in the same buffers; None stands for zero.

        `capacity` is one of the capacities. The first call compiles them all, for the groups of a
        later batch may have any length.
        """
        if not self._is_warm:
            for other in {*self.capacities} - {capacity}:
                zeros = self.zeros(trained, frozen, micro)
                # One gradient at a time is alive.
                jax.block_until_ready(self.add(zeros, trained, frozen, micro, other))
            self._is_warm = True
        if totals is None:
            totals = self.zeros(trained, frozen, micro)
        return self.add(totals, trained, frozen, micro, capacity)

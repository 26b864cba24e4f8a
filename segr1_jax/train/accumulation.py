"""Gradient accumulation over the micro-batches of an update."""

from dataclasses import dataclass

from segr1_jax.objective.update import Totals, TrainBatch
from segr1_jax.policy.params import Params
from segr1_jax.runtime.compiled_functions import Watched


@dataclass(frozen=True)
class Accumulation:
    """The compiled programs of objective.update.Gradient."""

    zeros: Watched
    add: Watched

    def __call__(
        self, totals: Totals | None, trained: Params, frozen: Params, micro: TrainBatch
    ) -> Totals:
        """Return totals with those of `micro` added, in the same buffers; None stands for zero."""
        if totals is None:
            totals = self.zeros(trained, frozen, micro)
        return self.add(totals, trained, frozen, micro)

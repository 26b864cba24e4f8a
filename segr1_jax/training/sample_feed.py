"""The training samples of one process, batch by batch, with the position of the run in the data."""

from collections.abc import Iterator

from segr1_jax.data.pipeline import Sample
from segr1_jax.runtime.metrics_log import PhaseTimer
from segr1_jax.training.tally import Tally


class SampleFeed:
    """Batches in the order of the data.

    A batch counts as used when a step takes it; samples read ahead do not count yet.

    Attributes:
        position: number of samples that the finished steps of all processes have used.
    """

    def __init__(self, position: int, batch: int, tally: Tally, timer: PhaseTimer):
        self.position = position
        self._batch, self._tally, self._timer = batch, tally, timer
        self._batches: Iterator[list[Sample]] = iter(())
        self._steps_left = 0
        self._next: list[Sample] = []

    def start(self, batches: Iterator[list[Sample]], steps: int) -> None:
        """Feed `steps` steps from `batches`, which begin at `position`."""
        self._batches, self._steps_left = batches, steps

    def take(self) -> list[Sample]:
        """Return the batch of the next step."""
        self._steps_left -= 1
        return self._use()

    def more(self) -> list[Sample]:
        """Return another batch for the current step, next in the order."""
        self.position += self._batch
        return self._use()

    def upcoming(self) -> list[Sample]:
        """Return the batch of the next step ahead of time; none at the last step."""
        return self._read() if self._steps_left else []

    def finish(self) -> None:
        """Move the position past the batch of a finished step."""
        self.position += self._batch

    def _use(self) -> list[Sample]:
        batch, self._next = self._read(), []
        self._tally.use(batch)
        return batch

    def _read(self) -> list[Sample]:
        if not self._next:
            with self._timer("input"):
                self._next = next(self._batches)
        return self._next

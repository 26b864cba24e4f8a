"""What a run logs, and at which steps. Only the first process writes."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from segr1_jax.config.schema import RunConfig
from segr1_jax.runtime.metrics_log import MetricsWriter
from segr1_jax.runtime.processes import is_first
from segr1_jax.runtime.run_directory import RunDir
from segr1_jax.runtime.trackers.tracker import Picture
from segr1_jax.training.evaluation_panels import PANELS, Panels


class RunLog:
    """Log of a run after `first_step`, the restored one. Use it as a context manager.

    Attributes:
        last_step: the last step that was logged.
    """

    def __init__(self, directory: RunDir, config: RunConfig, first_step: int):
        self._config, self.last_step = config, first_step
        self._open = ExitStack()
        self._writer = (
            self._open.enter_context(MetricsWriter(directory, config, first_step))
            if is_first()
            else None
        )

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception) -> None:
        self._open.__exit__(*exception)

    def is_due(self, step: int) -> bool:
        """Return True if the figures of this step are logged: every log_every steps, and last."""
        return step % self._config.log_every == 0 or step == self._config.steps

    def step(self, step: int, figures: Mapping[str, Any]) -> None:
        """Log the figures of a step."""
        self.last_step = step
        if self._writer:
            self._writer.write(step, figures)

    def panels(self) -> Panels:
        """Return a collector of the pictures of an evaluation; of none where no tracker is."""
        is_shown = self._writer and self._writer.shows_pictures
        return Panels(PANELS if is_shown else 0)

    def evaluation(
        self, step: int, figures: Mapping[str, float], pictures: Sequence[Picture]
    ) -> None:
        """Log the figures of an evaluation, with the pictures of its samples."""
        if self._writer:
            tagged = {f"eval/{name}": value for name, value in figures.items()}
            self._writer.write(step, tagged, pictures)

    def completions(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Write the completions of a step whose figures are logged.

        They share the interval of the figures: each record then has the line of its step beside it,
        and log_every bounds the size of both files.
        """
        if self._writer and records and self.is_due(step):
            self._writer.write_completions(step, records)

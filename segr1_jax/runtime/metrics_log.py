"""Metrics of a run: metrics.jsonl, what trackers show, and the seconds of each phase."""

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from segr1_jax.common.files import json_line
from segr1_jax.config.schema import RunConfig
from segr1_jax.runtime.json_lines_log import complete_lines, cut_lines
from segr1_jax.runtime.run_directory import RunDir
from segr1_jax.runtime.trackers.connect import open_trackers
from segr1_jax.runtime.trackers.tracker import Picture, Row, grouped, rows_of

NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
OTHER = "other"  # host work outside every named phase


class MetricsWriter:
    """Writer for metrics.jsonl, completions.jsonl and the trackers in `config.log`.

    metrics.jsonl has one line per call, with its keys sorted. Lines are flushed immediately, so a
    full disk raises OSError here. The trackers show the same numbers in groups (`train/reward`),
    with pictures beside them.

    `start_step` is the restored step. Lines after it are deleted, so that a killed and resumed run
    leaves the same lines as an uninterrupted one; 0 deletes all earlier lines. Use it as a context
    manager.

    Example:
        >>> with MetricsWriter(run, config, start_step=0) as writer:
        ...     writer.write(1, {"reward": 0.5, "time/rollout_s": 1.2})
    """

    def __init__(self, run: RunDir, config: RunConfig, start_step: int = 0):
        is_new = not read_metrics(run)
        cut_lines(run.metrics, start_step)
        cut_lines(run.completions, start_step)
        self._lines = run.metrics.open("a")
        self._completions_path = run.completions
        rows = rows_of(read_metrics(run))
        self._trackers = open_trackers(run, config, start_step, rows, is_new=is_new)

    @property
    def shows_pictures(self) -> bool:
        """True if a tracker shows the pictures that `write` is given."""
        return bool(self._trackers)

    def write(
        self, step: int, figures: Mapping[str, Any], pictures: Sequence[Picture] = ()
    ) -> None:
        """Log numbers (Python, numpy or jax scalars) and show pictures beside them."""
        numbers = {name: _number(value) for name, value in figures.items()}
        self._lines.write(_line(dict(sorted({"step": step, **numbers}.items()))))
        self._lines.flush()
        row = Row(step, grouped(numbers), pictures)
        for tracker in self._trackers:
            tracker.write(row)

    def write_completions(self, step: int, records: Iterable[Mapping[str, Any]]) -> None:
        """Append training completions of a step to completions.jsonl."""
        lines = "".join(_line({"step": step, **record}) for record in records)
        with self._completions_path.open("a", encoding="utf-8") as file:
            file.write(lines)

    def close(self, *, failed: bool = False) -> None:
        """Close the file and the trackers; `failed` tells them that the run ended with an error."""
        self._lines.close()
        for tracker in self._trackers:
            tracker.close(failed=failed)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)


def read_metrics(run: RunDir) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl in order, without a last line that a kill cut short.

    Values that are not finite, which JSON stores as strings, are converted back to numbers.
    """
    return [
        {name: NOT_FINITE.get(value, value) for name, value in line.items()}
        for line in complete_lines(run.metrics)
    ]


class PhaseTimer:
    """Measure the host's wall-clock time per phase of a step. A trace shows the same phases.

    All time belongs to exactly one phase, the innermost, or to `other`, so the phases add up to
    `time/step_s`. Devices work asynchronously: a phase includes the work and the waiting of the
    host, not the work of the devices.

    Example:
        >>> timer = PhaseTimer()
        >>> with timer("rollout"):
        ...     pass
        >>> sorted(timer.take(steps=1))
        ['time/other_s', 'time/rollout_s', 'time/step_s']
    """

    def __init__(self):
        self._seconds: dict[str, float] = defaultdict(float)
        self._phase, self._since = OTHER, time.perf_counter()

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the time inside the block for `phase`."""
        outer = self._phase
        self._enter(phase)
        try:
            with jax.profiler.TraceAnnotation(phase):
                yield
        finally:
            self._enter(outer)

    def take(self, steps: int) -> dict[str, float]:
        """Return the seconds of each phase and in total since the last call, and restart.

        The values are means over `steps` steps.
        """
        self._enter(self._phase)
        seconds = self._seconds | {"step": sum(self._seconds.values())}
        self._seconds = defaultdict(float)
        return {f"time/{name}_s": value / steps for name, value in seconds.items()}

    def _enter(self, phase: str) -> None:
        now = time.perf_counter()
        self._seconds[self._phase] += now - self._since
        self._phase, self._since = phase, now


def _line(record: Mapping[str, Any]) -> str:
    return json_line({name: _json(value) for name, value in record.items()})


def _number(value: Any) -> int | float:
    return value if isinstance(value, int) else np.asarray(value).item()


def _json(value: Any) -> Any:
    """Return the value, or the word for a number that is not finite: JSON has no NaN."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

"""Metrics of a run: metrics.jsonl, TensorBoard, and the seconds of each phase."""

import contextlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from segr1_jax.common.files import write_atomically
from segr1_jax.runtime.run_directory import RunDir
from segr1_jax.runtime.tensorboard_files import cut_events

NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
OTHER = "other"  # host work outside every named phase


class MetricsWriter:
    """Writer of one JSON line per call to metrics.jsonl, and of the same numbers to TensorBoard.

    Lines have sorted keys. Both files are flushed at once, so a full disk raises OSError here.
    (tensorboardX's own writer has a thread that ends at that error and then blocks its caller once
    its queue is full.)

    `start_step` is the restored step. Lines after it are deleted, so that a killed and resumed run
    leaves the same lines as an uninterrupted one; 0 deletes all earlier lines. Use it as a context
    manager.

    Example:
        >>> with MetricsWriter(run, start_step=0) as writer:
        ...     writer.write(1, {"train/reward": 0.5, "time/rollout_s": 1.2})
    """

    def __init__(self, run: RunDir, start_step: int = 0):
        # Imported here because it is slow, and commands that only read metrics do not need it.
        from tensorboardX.event_file_writer import EventsWriter

        _cut_lines(run, start_step)
        cut_events(run.tensorboard, start_step)
        self._lines = run.metrics.open("a")
        run.tensorboard.mkdir(exist_ok=True)
        self._board = EventsWriter(str(run.tensorboard / "events"), f".from_step_{start_step}")

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Log numbers (Python, numpy or jax scalars) under names such as `train/reward`."""
        from tensorboardX.summary import scalar

        numbers = {name: _number(value) for name, value in figures.items()}
        self._lines.write(_line({"step": step} | numbers))
        self._lines.flush()
        self._show(step, [scalar(name, value) for name, value in numbers.items()])

    def image(self, step: int, name: str, image_HW3: UInt8[np.ndarray, "H W 3"]) -> None:
        """Write an RGB image to TensorBoard."""
        from tensorboardX.summary import image

        self._show(step, [image(name, image_HW3, dataformats="HWC")])

    def _show(self, step: int, summaries: Sequence[Any]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [value for summary in summaries for value in summary.value]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        self._board.write_event(event)
        self._board.flush()

    def close(self) -> None:
        """Close both files."""
        self._lines.close()
        self._board.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(run: RunDir) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl in order, without a last line cut short by a kill.

    Values that are not finite, which JSON stores as words, are converted back to numbers.
    """
    if not run.metrics.exists():
        return []
    complete = run.metrics.read_text().rpartition("\n")[0]
    lines = map(json.loads, complete.splitlines())
    return [{name: NOT_FINITE.get(value, value) for name, value in line.items()} for line in lines]


class PhaseTimer:
    """Timer of the host's wall clock per phase of a step. A trace shows the same phases.

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


def _cut_lines(run: RunDir, start_step: int) -> None:
    kept = [line for line in read_metrics(run) if start_step > 0 and line["step"] <= start_step]
    write_atomically(run.metrics, "".join(map(_line, kept)))


def _line(figures: Mapping[str, int | float]) -> str:
    values = {name: _json(value) for name, value in figures.items()}
    return json.dumps(values, sort_keys=True) + "\n"


def _number(value: Any) -> int | float:
    return value if isinstance(value, int) else np.asarray(value).item()


def _json(value: int | float) -> int | float | str:
    """Return the value, or the word for it if it is not finite: JSON has no NaN."""
    return value if math.isfinite(value) else str(value)

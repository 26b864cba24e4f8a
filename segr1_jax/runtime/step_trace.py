"""XProf trace of some steps of an ordinary run (profile.steps)."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from segr1_jax.runtime.metrics_log import PhaseTimer

TRACE_PHASE = "trace"  # time to start the profiler and to write the trace
STEP_EVENT = "step"  # name of a step in a trace


class StepTrace:
    """Trace of the steps from the first to the last of `steps`, or of none if `steps` is empty.

    The trace is written to a subfolder of `folder` named after the current time. Use it as a
    context manager: a run that ends early still writes the trace of its steps so far.
    """

    def __init__(self, steps: Sequence[int], folder: Path, timer: PhaseTimer):
        self._steps = range(steps[0], steps[1] + 1) if steps else range(0)
        self._folder, self._timer, self._active = folder, timer, False

    @contextlib.contextmanager
    def __call__(self, step: int) -> Iterator[None]:
        """Trace one step, if it is selected. Use it around the step."""
        if step in self._steps and not self._active:
            with self._timer(TRACE_PHASE):
                self._start()
        with jax.profiler.StepTraceAnnotation(STEP_EVENT, step_num=step):
            yield
        if self._active and step + 1 not in self._steps:
            with self._timer(TRACE_PHASE):
                self._stop()

    def _start(self) -> None:
        options = jax.profiler.ProfileOptions()
        # A trace of every Python call would hide the phases and slow down the host.
        options.python_tracer_level = 0
        jax.profiler.start_trace(self._folder, profiler_options=options)
        self._active = True

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._active = False

    def __enter__(self) -> "StepTrace":
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            self._stop()

"""Read the files of the profiler."""

from pathlib import Path

from jax.profiler import ProfileData

from segr1_jax.errors import UserError
from segr1_jax.runtime.step_trace import STEP_EVENT


def trace_file(folder: Path) -> Path:
    """Return the newest .xplane.pb under `folder`; raise UserError if there is none."""
    found = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(
            str(folder),
            expected="an .xplane.pb file",
            got="none",
            remedy="the run ended before the steps of profile.steps",
        )
    return found[-1]


def host_events(file: Path) -> dict[str, float]:
    """Return seconds of events by name in the host thread that ran the steps, phases included.

    The thread has the name of the program (python, segr1), so it is recognized by its events.

    Raises:
        UserError: no thread ran a step.
    """
    for plane in ProfileData.from_file(str(file)).planes:
        for line in plane.lines if plane.name.startswith("/host:") else ():
            seconds: dict[str, float] = {}
            for event in line.events:
                seconds[event.name] = seconds.get(event.name, 0.0) + event.duration_ns / 1e9
            if STEP_EVENT in seconds:
                return seconds
    raise UserError(
        str(file),
        expected=f"a thread with events {STEP_EVENT!r}",
        got="none",
        remedy="trace whole steps with profile.steps",
    )

"""Reading back what the profiler wrote."""

from pathlib import Path

from jax.profiler import ProfileData

from segr1_jax.errors import UserError


def trace_file(folder: Path) -> Path:
    """The newest .xplane.pb under `folder`. Raises UserError where there is none."""
    found = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(str(folder), expected="an .xplane.pb file", got="none", remedy="the run ended before the steps of profile.steps")
    return found[-1]


def host_events(file: Path) -> dict[str, float]:
    """Seconds of the events of the host's Python thread by name: the phases of the steps among them."""
    seconds: dict[str, float] = {}
    for plane in ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            if plane.name.startswith("/host:") and line.name == "python":
                for event in line.events:
                    seconds[event.name] = seconds.get(event.name, 0.0) + event.duration_ns / 1e9
    return seconds

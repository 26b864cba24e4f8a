"""Run parts as processes, each within its own time limit and all of them within one deadline."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from first_day_parts.ending import ending
from gpu_parts.record import Record

# A part is not started with less time than this, and has this long to end after SIGTERM.
LEAST_S, GRACE_S = 5.0, 3.0


class Part(NamedTuple):
    """A part by name, the module of gpu_parts that measures it, and its time limit in seconds."""

    name: str
    module: str
    limit_s: float


def interrupt(*_) -> None:
    """End the script as Ctrl-C does; a handler of signals."""
    raise KeyboardInterrupt


def run_parts(
    parts: Sequence[Part],
    command_of: Callable[[Part], list[str]],
    record: Record,
    deadline: float,
    environment: Mapping[str, str],
) -> None:
    """Run the parts in their order until `deadline`, a value of time.monotonic().

    The record gets the status of each: ok, failed, or skipped for want of time. KeyboardInterrupt
    ends the running part, which is recorded, and is raised again.
    """
    for part in parts:
        began = time.monotonic()
        left = deadline - began
        if left < LEAST_S:
            record.update(part.name, status="skipped", error="the deadline of all parts is reached")
            continue
        limit = min(part.limit_s, left - GRACE_S)
        try:
            error = _run(part, command_of(part), record, limit, environment)
        except KeyboardInterrupt:
            _close(record, part, began, "interrupted")
            raise
        _close(record, part, began, error)


def _close(record: Record, part: Part, began: float, error: str) -> None:
    seconds = round(time.monotonic() - began, 2)
    status = "failed" if error else "ok"
    record.remove_partial_files()
    record.update(part.name, status=status, seconds=seconds, error=error)
    print(f"gpu: {part.name} {status}, {seconds:.0f} s", file=sys.stderr, flush=True)


def _run(
    part: Part,
    command: list[str],
    record: Record,
    limit_s: float,
    environment: Mapping[str, str],
) -> str:
    """Run one part and return why it failed, or an empty string."""
    with record.log.open("ab") as log:
        log.write(f"== {part.name}\n".encode())
        log.flush()
        start = log.tell()
        # A group of its own: its sidecars and subprocesses end with it.
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, process_group=0
        )
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return f"stopped after its {limit_s:.0f} s; its rows are kept"
        finally:
            _end(process)
    if not status:
        return ""
    if failed := [row["name"] for row in record.part(part.name)["rows"] if "error" in row]:
        return f"rows with an error: {', '.join(failed)}"
    with record.log.open("rb") as log:
        log.seek(start)
        return ending(status, log.read().decode(errors="replace"))


def _end(process: subprocess.Popen) -> None:
    """End the process, if it runs, and all others of its group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE_S)
        except (ProcessLookupError, PermissionError):
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()

"""A tracker in a thread of its own, so that neither its delays nor its errors reach the run."""

import json
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from segr1_jax.common.files import write_atomically
from segr1_jax.runtime.trackers.tracker import Row, Tracker, one_line

MOST_WAITING = 1000  # rows
CLOSE_TIMEOUT_S = 60


class Mark:
    """The last row that a tracker was given, in a file of the run directory.

    It is written before the row is: a row that a kill interrupts may be missing in the tracker, but
    is never there twice.
    """

    def __init__(self, path: Path):
        self._path = path
        self._place = tuple(json.loads(path.read_text())) if path.is_file() else (-1, False)

    def is_before(self, row: Row) -> bool:
        """Return True if the tracker has not been given this row."""
        return self._place < row.place

    def set(self, row: Row) -> None:
        """Record that the tracker is given this row."""
        self._place = row.place
        write_atomically(self._path, json.dumps(row.place), durable=False)


class BackgroundTracker:
    """Hand rows to a tracker in a thread.

    The thread opens the tracker, writes the rows that `missed` holds and the tracker has not, and
    then those of `write`. A resumed run repeats the steps after its checkpoint with the same
    results, so rows that the tracker has been given are not written again; `mark` is the file of
    its Mark.

    Where the tracker raises, cannot keep up or does not end in time, the run continues without it:
    one message says so, and the traceback is written to `incidents`. The next resume writes what is
    missing from metrics.jsonl.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Tracker],
        mark: Path,
        missed: Sequence[Row],
        incidents: Path,
    ):
        self._name, self._connect, self._mark = name, connect, mark
        self._missed, self._incidents = missed, incidents
        self._rows: queue.Queue[Row | None] = queue.Queue(MOST_WAITING)  # None ends the thread
        self._has_ended, self._reporting = threading.Event(), threading.Lock()
        self._run_failed = False
        # A daemon: a tracker that hangs must not keep the process alive.
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def write(self, row: Row) -> None:
        """Queue a row; never waits."""
        if self._has_ended.is_set():
            return
        try:
            self._rows.put_nowait(row)
        except queue.Full:
            self._end(f"{MOST_WAITING} rows behind")

    def close(self, *, failed: bool) -> None:
        """Wait until the rows are written, but not for longer than CLOSE_TIMEOUT_S."""
        if self._has_ended.is_set():
            return
        self._run_failed = failed
        try:
            self._rows.put_nowait(None)
        except queue.Full:
            return self._end(f"{MOST_WAITING} rows behind")
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            self._end(f"not finished after {CLOSE_TIMEOUT_S} s")

    def _work(self) -> None:
        try:
            tracker, mark = self._connect(), Mark(self._mark)
            for row in self._missed:
                _hand_over(tracker, mark, row)
            while (row := self._rows.get()) is not None and not self._has_ended.is_set():
                _hand_over(tracker, mark, row)
            tracker.close(failed=self._run_failed or self._has_ended.is_set())
        except (Exception, SystemExit) as error:  # noqa: BLE001 (reported; the run continues)
            self._end(f"{type(error).__name__}: {one_line(error)}", traceback.format_exc())

    def _end(self, reason: str, details: str = "") -> None:
        """Stop handing over rows, and report why; only the first reason is reported."""
        with self._reporting:
            if self._has_ended.is_set():
                return
            print(
                f"{self._name}: {reason}; the run continues without it, and metrics.jsonl is "
                f"complete. A resumed run writes to {self._name} what it lacks.",
                file=sys.stderr,
            )
            if details:
                self._incidents.mkdir(exist_ok=True)
                file = self._incidents / f"tracker_{self._name}.txt"
                file.write_text(details, encoding="utf-8", errors="backslashreplace")
            # Last: the process may end once it is set.
            self._has_ended.set()


def _hand_over(tracker: Tracker, mark: Mark, row: Row) -> None:
    if mark.is_before(row):
        mark.set(row)
        tracker.write(row)

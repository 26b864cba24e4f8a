"""Progress display: a live bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Mapping
from io import TextIOBase

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

# Shortest time between two lines in a log. The last step always has a line.
PLAIN_INTERVAL_S = 5.0


class Progress:
    """Display of step, remaining time and key figures. Use it as a context manager.

    Example:
        >>> with Progress("grpo", total=100, start=40) as progress:
        ...     progress.update(41, {"reward": 1.31})
    """

    def __init__(self, title: str, total: int, start: int = 0, stream: TextIOBase | None = None):
        self._title = title
        self._total = total
        self._start = start
        self._stream = stream or sys.stderr
        self._began = self._printed = time.monotonic()
        self._bar = _bar(Console(file=self._stream)) if self._stream.isatty() else None
        self._task = None
        if self._bar:
            self._task = self._bar.add_task(title, total=total, completed=start, figures="")

    def update(self, step: int, figures: Mapping[str, float]) -> None:
        """Show that `step` updates are done, and `figures` with three digits after the point."""
        text = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
        if self._bar:
            self._bar.update(self._task, completed=step, figures=text)
        elif step == self._total or time.monotonic() - self._printed >= PLAIN_INTERVAL_S:
            self._printed = time.monotonic()
            print(
                f"{self._title} {step}/{self._total}  left {self._left(step)}  {text}",
                file=self._stream,
                flush=True,
            )

    def _left(self, step: int) -> str:
        done = step - self._start
        if not done:
            return "?"
        seconds = round((time.monotonic() - self._began) / done * (self._total - step))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()


class CountedProgress:
    """Display of several counts one after the other. Use it as a context manager."""

    def __init__(self):
        self._title, self._current = "", None

    def update(self, title: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done for `title`."""
        if title != self._title:
            self._close()
            self._title, self._current = title, Progress(title, total).__enter__()
        self._current.update(done, {})

    def _close(self) -> None:
        if self._current:
            self._current.__exit__()

    def __enter__(self) -> "CountedProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


def show_markdown(text: str, stream: TextIOBase | None = None) -> None:
    """Print markdown, rendered on a terminal and unchanged in a log."""
    stream = stream or sys.stdout
    if stream.isatty():
        Console(file=stream).print(Markdown(text))
    else:
        print(text, file=stream, flush=True)


def _bar(console: Console) -> Bar:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Bar(*columns, TextColumn("{task.fields[figures]}"), console=console)

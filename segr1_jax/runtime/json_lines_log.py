"""Append-only files of JSON lines that a run writes step by step, each line with its `step`."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def complete_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file, without a last one cut short by a kill; none if it is absent."""
    if path.exists():
        with path.open("rb") as file:
            yield from (json.loads(line) for line in file if line.endswith(b"\n"))


def cut_lines(path: Path, last_step: int) -> None:
    """Cut the file after the lines of `last_step`; 0 empties it.

    A resumed run writes what follows again, so that it leaves the same lines as an uninterrupted
    one.
    """
    if not path.exists():
        return
    end = 0
    with path.open("rb") as file:
        for line in file if last_step > 0 else ():
            if not line.endswith(b"\n") or json.loads(line)["step"] > last_step:
                break
            end += len(line)
    os.truncate(path, end)

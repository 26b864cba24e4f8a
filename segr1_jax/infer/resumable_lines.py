"""Lines written by several processes in batches; rerunning a killed call gives the same bytes."""

import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from segr1_jax.common.files import write_atomically
from segr1_jax.errors import UserError
from segr1_jax.metrics.predictions import LINES
from segr1_jax.runtime.mesh import max_over_processes
from segr1_jax.runtime.processes import is_first, wait_for_all

IDENTITY = "identity.json"
READERS = 8  # threads that compare lines with their samples


def write_lines(
    folder: Path,
    identity: dict[str, Any],
    total: int,
    rows: int,
    lines_from: Callable[[range, int], Iterator[list[str]]],
    progress: Callable[[int, int], None] = lambda *_: None,
    foreign: Callable[[int, bytes], str | None] = lambda *_: None,
) -> Path:
    """Write `total` lines to folder/predictions.jsonl in order, and return its path.

    `lines_from` gets this process's remaining positions and the number of batches. It yields the
    lines of `rows` positions at a time, then pads with empty batches: the processes run one program
    together, so all need the same number of batches. The files that the lines of a batch name are
    on disk before it is yielded. Batches depend only on `total`, `rows` and the number of
    processes.

    `foreign(position, line)` returns the name of the sample at `position` if the existing line
    belongs to a different sample. It is called from several threads.

    Raises:
        UserError: `folder` has lines with a different `identity`, or lines of other samples.
    """
    _claim(folder, identity)
    _require_own_lines(folder, foreign)
    if not (folder / LINES).is_file():
        process, processes = jax.process_index(), jax.process_count()
        part = _part(folder, process, processes)
        batches = math.ceil(math.ceil(total / processes) / rows)
        first = _batches_everywhere(part, rows)
        _cut(part, first * rows)
        left = range(process + first * rows * processes, total, processes)
        for batch, lines in enumerate(lines_from(left, batches - first), start=first + 1):
            with part.open("a", encoding="utf-8") as file:
                file.write("".join(lines))
            progress(min(batch * rows * processes, total), total)
        wait_for_all("lines written")
        if is_first():
            _merge(folder, processes, total)
        wait_for_all("lines merged")
    return folder / LINES


def remove_lines(folder: Path) -> None:
    """Delete the lines in `folder`, including those of an interrupted call."""
    for path in [folder / LINES, *folder.glob(f".{LINES}.*-of-*")]:
        path.unlink(missing_ok=True)


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Record the identity of the lines; lines of another policy or set must not be mixed in."""
    path, content = folder / IDENTITY, json.dumps(identity, indent=1, sort_keys=True) + "\n"
    if path.is_file() and path.read_text() != content:
        old = json.loads(path.read_text())
        differing = sorted(
            name for name in {**old, **identity} if old.get(name) != identity.get(name)
        )
        remedy = "choose another folder with --out, or delete this one"
        raise UserError(
            str(folder),
            expected="answers of this policy to this set",
            got=f"other {', '.join(differing)}",
            remedy=remedy,
        )
    wait_for_all("identity compared")
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    wait_for_all("identity written")


def _require_own_lines(folder: Path, foreign: Callable[[int, bytes], str | None]) -> None:
    """Check the lines of each process; all processes raise together."""
    with ThreadPoolExecutor(READERS) as pool:
        found = [name for name in pool.map(foreign, *_lines_here(folder)) if name is not None]
    if count := max_over_processes(len(found)):
        first = f", the first {found[0]}" if found else ""
        raise UserError(
            str(folder),
            expected="answers to the samples of this set",
            got=f"{count} to other samples{first}",
            remedy="choose another folder with --out, or delete this one",
        )


def _lines_here(folder: Path) -> tuple[list[int], list[bytes]]:
    """Return the positions of this process that have a complete line, and the lines."""
    process, processes = jax.process_index(), jax.process_count()
    whole = folder / LINES
    path = whole if whole.is_file() else _part(folder, process, processes)
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    own = lines[process::processes] if path == whole else lines
    return [process + number * processes for number in range(len(own))], own


def _part(folder: Path, process: int, processes: int) -> Path:
    return folder / f".{LINES}.{process:05d}-of-{processes:05d}"


def _batches_everywhere(part: Path, rows: int) -> int:
    """Return the number of whole batches that every process has on disk."""
    lines = part.read_bytes().count(b"\n") if part.is_file() else 0
    return -max_over_processes(-(lines // rows))


def _cut(part: Path, lines: int) -> None:
    kept = part.read_bytes().split(b"\n")[:lines] if part.is_file() else []
    write_atomically(part, b"".join(line + b"\n" for line in kept))


def _merge(folder: Path, processes: int, total: int) -> None:
    parts = [_part(folder, process, processes) for process in range(processes)]
    lines = [part.read_bytes().splitlines(keepends=True) for part in parts]
    write_atomically(
        folder / LINES,
        b"".join(lines[index % processes][index // processes] for index in range(total)),
    )
    for part in folder.glob(f".{LINES}.*-of-*"):
        part.unlink()

"""JSON lines that users write: one flat object of texts per line, read one at a time, every fault named by file and line."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from segr1_jax.errors import UserError

SHOWN = 120  # characters of a bad value


def read_records(
    path: Path, *, paths: Sequence[str], texts: Sequence[str] = (), optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number from 1, record) of every line that is not blank.

    `paths` are required and not empty, `texts` are required; `optional` fields may be left out or null, and are then absent from the
    record. Nothing is kept of earlier lines, so a file may have any length.

    Raises:
        UserError: no such file; or, when its turn comes, a line that is no JSON object or has other fields.
    """
    names = [*paths, *texts]
    expected = f"a JSON object with the texts {', '.join(names)}" + (
        f" and, optionally, {', '.join(optional)}" if optional else ""
    )
    for number, line in _lines(path):
        try:
            record = json.loads(line.decode())
            problem = _problem(record, paths, names, optional)
        except (ValueError, RecursionError) as error:
            problem = str(error)
        if problem:
            raise UserError(
                f"{path}:{number}",
                expected=expected,
                got=problem[:SHOWN],
                remedy="correct the line; each holds one object",
            )
        yield number, {name: value for name, value in record.items() if value is not None}


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(
            str(path), expected="a file of JSON lines", got=str(error), remedy="correct the path"
        ) from error
    with file:
        yield from ((number, line) for number, line in enumerate(file, start=1) if line.strip())


def _problem(
    record: Any, paths: Sequence[str], names: Sequence[str], optional: Sequence[str]
) -> str | None:
    if not isinstance(record, dict):
        return f"a {type(record).__name__}"
    if missing := next((name for name in names if record.get(name) is None), None):
        return f"no {missing!r}"
    if unknown := next((name for name in record if name not in (*names, *optional)), None):
        return f"the field {unknown!r}"
    if empty := next((name for name in paths if record[name] == ""), None):
        return f"an empty {empty!r}"
    other = next(
        (
            name
            for name, value in record.items()
            if value is not None and not isinstance(value, str)
        ),
        None,
    )
    if other:
        return f"{record[other]!r} for {other!r}"
    halved = (name for name, value in record.items() if value and not _encodable(value))
    return next((f"half a surrogate pair in {name!r}" for name in halved), None)


def _encodable(text: str) -> bool:
    """Whether UTF-8 can hold it, as file names and tokenizers need; JSON's escapes can do more."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

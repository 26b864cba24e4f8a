"""JSON lines that users write: one flat object of texts per line.

Lines are read one at a time, and errors name the file and the line.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from segr1_jax.errors import UserError

SHOWN = 120  # characters of a bad value


def read_records(
    path: Path, *, paths: Sequence[str], texts: Sequence[str] = (), optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number from 1, record) for every line that is not blank.

    Fields of `paths` are required and not empty, and fields of `texts` are required. Fields of
    `optional` may be missing or null, and are then absent from the record. Earlier lines are not
    kept in memory, so a file may have any length.

    Raises:
        UserError: the file does not exist; or, once it is reached, a line is not a JSON object or
            has other fields.
    """
    names = [*paths, *texts]
    expected = f"a JSON object with the texts {', '.join(names)}"
    if optional:
        expected += f" and, optionally, {', '.join(optional)}"
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
    """Return the first fault of a record, or None."""
    if not isinstance(record, dict):
        return f"a {type(record).__name__}"
    if missing := next((name for name in names if record.get(name) is None), None):
        return f"no {missing!r}"
    if unknown := next((name for name in record if name not in (*names, *optional)), None):
        return f"the field {unknown!r}"
    if empty := next((name for name in paths if record[name] == ""), None):
        return f"an empty {empty!r}"
    texts = {name: value for name, value in record.items() if value is not None}
    if other := next((name for name, value in texts.items() if not isinstance(value, str)), None):
        return f"{record[other]!r} for {other!r}"
    unpaired = (name for name, value in texts.items() if not _is_encodable(value))
    return next((f"half a surrogate pair in {name!r}" for name in unpaired), None)


def _is_encodable(text: str) -> bool:
    """Return whether UTF-8 can encode the text, as file names and tokenizers require.

    The escapes of JSON can express lone surrogates, which UTF-8 cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

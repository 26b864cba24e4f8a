"""Typed fields of JSON files from other programs, with errors that name the file and the field."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segr1_jax.errors import UserError

LARGEST = 2**31 - 1  # integers must fit int32
_MISSING = object()


def read_object(path: Path, *, remedy: str) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises UserError if the file is missing or holds anything else.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        got = str(error) or type(error).__name__
        raise UserError(str(path), expected="a JSON file", got=got, remedy=remedy) from None
    if not isinstance(content, dict):
        got = f"a {type(content).__name__}"
        raise UserError(str(path), expected="a JSON object", got=got, remedy=remedy)
    return content


class Fields:
    """Fields of an object in the file `where`; `remedy` is the remedy that errors suggest.

    The methods that read a field take its name, or the names that it may have, and a default if
    the field is optional.
    """

    def __init__(self, values: Mapping[str, Any], where: str, remedy: str):
        self._values, self._where, self._remedy = values, where, remedy

    def size(self, *names: str, default: Any = _MISSING) -> int:
        """Return a positive 32-bit integer."""
        return self._take(names, default, "a positive integer", _is_size)

    def index(self, *names: str, default: Any = _MISSING) -> Any:
        """Return a non-negative integer, or the default (of any type) if the field is missing."""
        return self._take(names, default, "a non-negative integer", _is_index)

    def number(self, *names: str, default: Any = _MISSING) -> float:
        """Return a positive finite number."""
        return float(self._take(names, default, "a positive number", _is_positive))

    def sizes(self, name: str, count: int | None = None) -> tuple[int, ...]:
        """Return a list of non-negative integers, of length `count` if given."""
        return self._list(name, count, "non-negative integers", _is_index)

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """Return a list of `count` finite numbers."""
        return tuple(map(float, self._list(name, count, "numbers", _is_finite)))

    def section(self, *names: str, default: Any = _MISSING) -> "Fields":
        """Return the fields of an object inside this one."""
        values = self._take(names, default, "an object", lambda value: isinstance(value, Mapping))
        return Fields(values, self._where, self._remedy)

    def over(self, below: "Fields") -> "Fields":
        """Return the fields of both objects; a field of this object hides one of `below`."""
        return Fields({**below._values, **self._values}, self._where, self._remedy)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field without any check."""
        return self._values.get(name, default)

    def _list(self, name: str, count: int | None, what: str, is_one) -> tuple:
        def holds(value: Any) -> bool:
            return (
                isinstance(value, list) and count in (None, len(value)) and all(map(is_one, value))
            )

        what = f"a list of {what}" if count is None else f"{count} {what}"
        return tuple(self._take((name,), _MISSING, what, holds))

    def _take(self, names: tuple[str, ...], default: Any, what: str, holds) -> Any:
        name = next((name for name in names if name in self._values), None)
        if name is None:
            if default is _MISSING:
                raise self._error(f"the field {names[0]}", "none")
            return default
        if not holds(value := self._values[name]):
            raise self._error(f"{name} to be {what}", repr(value)[:80])
        return value

    def _error(self, expected: str, got: str) -> UserError:
        return UserError(self._where, expected=expected, got=got, remedy=self._remedy)


def _is_index(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _is_size(value: Any) -> bool:
    return _is_index(value) and value > 0


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST and math.isfinite(value)


def _is_positive(value: Any) -> bool:
    return _is_finite(value) and value > 0

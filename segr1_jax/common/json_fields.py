"""Fields of JSON files that others wrote: each read as what it must be, or an error that names file and field."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segr1_jax.errors import UserError

LARGEST = 2**31 - 1
_MISSING = object()


def read_object(path: Path, *, remedy: str) -> dict[str, Any]:
    """Read a file that holds one JSON object. Raises UserError where it is missing or holds anything else."""
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        got = str(error) or type(error).__name__
        raise UserError(str(path), expected="a JSON file", got=got, remedy=remedy) from None
    if not isinstance(found, dict):
        got = f"a {type(found).__name__}"
        raise UserError(str(path), expected="a JSON object", got=got, remedy=remedy)
    return found


class Fields:
    """The fields of an object in the file `where`; `remedy` says what to do about a wrong one.

    Every method takes the names that a field may have, and the default where it may be missing.
    """

    def __init__(self, values: Mapping[str, Any], where: str, remedy: str):
        self._values, self._where, self._remedy = values, where, remedy

    def size(self, *names: str, default: Any = _MISSING) -> int:
        """A positive 32-bit integer."""
        return self._take(names, default, "a positive integer", _is_size)

    def index(self, *names: str, default: Any = _MISSING) -> Any:
        """An integer from 0 on; whatever the default is where the field is missing."""
        return self._take(names, default, "an integer from 0 on", _is_index)

    def number(self, *names: str, default: Any = _MISSING) -> float:
        """A positive finite number."""
        return float(self._take(names, default, "a positive number", _is_positive))

    def sizes(self, name: str, count: int | None = None) -> tuple[int, ...]:
        """A list of integers from 0 on."""
        return self._list(name, count, "integers from 0 on", _is_index)

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """A list of finite numbers."""
        return tuple(map(float, self._list(name, count, "numbers", _is_finite)))

    def section(self, *names: str, default: Any = _MISSING) -> "Fields":
        """An object inside this one."""
        values = self._take(names, default, "an object", lambda value: isinstance(value, Mapping))
        return Fields(values, self._where, self._remedy)

    def over(self, below: "Fields") -> "Fields":
        """The fields of both; of those in both, these."""
        return Fields({**below._values, **self._values}, self._where, self._remedy)

    def get(self, name: str, default: Any = None) -> Any:
        """A field as it stands."""
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

"""Helpers for the configuration dataclasses: documented fields, and checks of their values."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from segr1_jax.errors import UserError


def knob(
    default: Any,
    doc: str,
    *,
    path: bool = False,
    parse: Callable[[Any, str, Path], Any] | None = None,
) -> Any:
    """Return a dataclass field with a default and its documentation, units included.

    `segr1 config` prints both. `path` marks a file or folder: a relative path is relative to the
    working directory in which a run was started. `parse` makes the value of the field from what a
    configuration says, its place in errors, and the folder of the configuration.
    """
    metadata = {"doc": doc, "path": path, "parse": parse}
    if isinstance(default, list | dict | set):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def others(kind: type, doc: str) -> Any:
    """Return a field that holds the keys of a section that are not among its other fields.

    Their names are free; their values are of `kind`.
    """
    return dataclasses.field(default_factory=dict, metadata={"doc": doc, "others": kind})


def section(kind: type, doc: str) -> Any:
    """Return a dataclass field that holds a nested configuration and its documentation."""
    return dataclasses.field(default_factory=kind, metadata={"doc": doc})


def require_choice(where: str, value: str, choices: Iterable[str]) -> None:
    """Raise UserError unless `value` is one of `choices`."""
    choices = tuple(choices)
    if value not in choices:
        raise UserError(
            where,
            expected=f"one of {', '.join(choices)}",
            got=repr(value),
            remedy="choose one of these",
        )


def require_range(where: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise UserError unless low <= value <= high."""
    if not low <= value <= high:
        raise UserError(
            where,
            expected=f"a number in [{low:g}, {high:g}]",
            got=f"{value!r}",
            remedy="change it in the config file or as key=value",
        )

"""Entries of `reward.terms`: a built-in term by its name, or FILE:FUNCTION for one of the user."""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from segr1_jax.errors import UserError

BUILT_IN = ("format", "iou", "s_measure")
ENTRY = f"{', '.join(BUILT_IN)}, or FILE.py:FUNCTION"


class OwnEntry(NamedTuple):
    """An own term: a function of a Python file. The name of the function is that of the term."""

    file: str
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.function}"


def own_entry(entry: str) -> OwnEntry | None:
    """Return the file and the function of an entry, or None for a built-in term.

    Example:
        >>> own_entry("terms/mine.py:few_points")
        OwnEntry(file='terms/mine.py', function='few_points')
    """
    return None if entry in BUILT_IN else OwnEntry(*entry.rpartition(":")[::2])


def own_entries(entries: Iterable[str]) -> list[OwnEntry]:
    """Return the own terms among the entries, in their order."""
    return [own for own in map(own_entry, entries) if own]


def term_name(entry: str) -> str:
    """Return the name of a term, which its weight and its metric have."""
    own = own_entry(entry)
    return own.function if own else entry


def check_entries(entries: Sequence[Any]) -> None:
    """Raise UserError unless each entry is a term and no two have the same name."""
    if not entries:
        raise _error("at least one term", "none", f"list some of {ENTRY}")
    for entry in entries:
        _check_entry(entry)
    names = Counter(map(term_name, entries))
    if twice := [name for name, count in names.items() if count > 1]:
        raise _error("each name once", f"{twice[0]} twice", "rename or remove one of them")


def check_weights(entries: Sequence[str], own_weights: Mapping[str, float]) -> None:
    """Raise UserError unless the own terms, and no others, have weights in `own_weights`."""
    names = [own.function for own in own_entries(entries)]
    if missing := [name for name in names if name not in own_weights]:
        raise UserError(
            "reward.weights",
            expected="a weight for each own term",
            got=f"none for {missing[0]}",
            remedy=f"set reward.weights.{missing[0]}; 0 only logs the term",
        )
    if unknown := [name for name in own_weights if name not in names]:
        near = difflib.get_close_matches(unknown[0], [*BUILT_IN, *names], n=1)
        raise UserError(
            "reward.weights",
            expected=f"weights of the terms {', '.join([*BUILT_IN, *names])}",
            got=unknown[0],
            remedy=(f"did you mean {near[0]}? " if near else "")
            + "Own terms are listed in reward.terms; weight 0 switches one off",
        )


def check_left_out(
    entries: Sequence[str], weights: Mapping[str, Any], defaults: Mapping[str, Any]
) -> None:
    """Raise UserError if a built-in term that is not listed has a weight that was set.

    A weight of 0, or its default, may stand beside a term that is left out.
    """
    for name in BUILT_IN:
        if name not in entries and weights[name] not in (0, defaults[name]):
            raise UserError(
                "reward.weights",
                expected=f"no weight of {name}, which reward.terms leaves out",
                got=f"{name}={weights[name]}",
                remedy=f"add {name} to reward.terms, or remove its weight",
            )


def _check_entry(entry: Any) -> None:
    if entry in BUILT_IN:
        return
    own = own_entry(entry) if isinstance(entry, str) else None
    if not own or not own.file or not own.function.isidentifier():
        near = difflib.get_close_matches(str(entry), BUILT_IN, n=1)
        remedy = f"did you mean {near[0]}?" if near else "write for example mine.py:my_term"
        raise _error(ENTRY, repr(entry), remedy)
    if own.function in BUILT_IN:
        got = f"{entry}, whose name is that of a built-in term"
        raise _error("own terms with names of their own", got, "rename the function")


def _error(expected: str, got: str, remedy: str) -> UserError:
    return UserError("reward.terms", expected=expected, got=got, remedy=remedy)

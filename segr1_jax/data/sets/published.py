"""A published data set as this package knows it: what it is called, what it should hold, how a split of it is read."""

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from segr1_jax.data.file_entries import FileSource
from segr1_jax.errors import UserError

Kind = Literal["foreground", "referring", "reasoning", "answers"]


@dataclass(frozen=True)
class PublishedSet:
    """One data set in its official layout.

    Attributes:
        folder: below the root of all sets; where it is missing, so is the set.
        kind: what its samples ask for, which decides the metrics of an evaluation; `answers` are for a cold start, without masks.
        counts: split -> samples as published (None: not known).
        read: (root, split) -> source. Raises UserError for a missing split.
    """

    title: str
    folder: str
    kind: Kind
    counts: Mapping[str, int | None]
    read: Callable[[Path, str], FileSource]


def require_folder(path: Path, own: Collection[str] = ()) -> Path:
    """`path`, which must be a folder; where it is not, the error names its neighbour with the nearest name that is not the set's `own`."""
    if path.is_dir():
        return path
    parent = path
    while not parent.is_dir() and parent != parent.parent:
        missing, parent = parent.name, parent.parent
    near = nearest_folder(parent, missing, own)
    remedy = (
        f"rename {near!r} in {parent} if it is this one"
        if near
        else f"put {missing!r} into {parent}"
    )
    raise UserError(
        str(path), expected="a folder of the official layout", got="no such folder", remedy=remedy
    )


def nearest_folder(parent: Path, missing: str, own: Collection[str]) -> str | None:
    """The folder in `parent` whose name is most like `missing`, none of `own`; None where none is alike."""
    names = (
        sorted(each.name for each in parent.iterdir() if each.is_dir() and each.name not in own)
        if parent.is_dir()
        else []
    )
    return next(iter(difflib.get_close_matches(missing, names, n=1, cutoff=0.5)), None)


def require_file(path: Path) -> Path:
    """`path`, which must be a file."""
    if not path.is_file():
        raise UserError(
            str(path),
            expected="a file of the official layout",
            got="no such file",
            remedy="copy it there",
        )
    return path

"""Description of a published data set: its folder, its counts of samples, and its reader."""

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
    """Published data set in its official layout.

    Attributes:
        title: name for reports.
        folder: folder below the root of all sets; the set is present if the folder exists.
        kind: task of the samples, which selects the metrics of an evaluation; `answers` are for a
            cold start and have no masks.
        counts: split -> number of samples as published (None: not known).
        read: (root, split) -> source. Raises UserError for a missing split.
    """

    title: str
    folder: str
    kind: Kind
    counts: Mapping[str, int | None]
    read: Callable[[Path, str], FileSource]


def require_folder(path: Path, own: Collection[str] = ()) -> Path:
    """Return `path` if it is a folder.

    Otherwise raises UserError that suggests a folder beside it with a similar name, except the
    names in `own`, which belong to other parts of the set.
    """
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
    """Return the name in `parent` that is most similar to `missing`, except the names in `own`.

    Returns None where no folder has a similar name.
    """
    folders = [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
    names = sorted(path.name for path in folders if path.name not in own)
    return next(iter(difflib.get_close_matches(missing, names, n=1, cutoff=0.5)), None)


def require_file(path: Path) -> Path:
    """Return `path` if it is a file, else raise UserError."""
    if not path.is_file():
        raise UserError(
            str(path),
            expected="a file of the official layout",
            got="no such file",
            remedy="copy it there",
        )
    return path

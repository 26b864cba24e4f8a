"""Pictures named on the command line."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from segr1_jax.common.picture_formats import picture_suffixes
from segr1_jax.data.file_entries import Entry, FileSource
from segr1_jax.errors import UserError


def named_pictures(
    named: Sequence[str], instruction: str | None, but: Sequence[Path] = ()
) -> FileSource:
    """Return the pictures that files, folders and patterns match, each once, excluding `but`.

    The name of a picture is its path relative to the common parent folder. The suffix is dropped if
    names stay unique without it. Raises UserError if one of `named` matches no picture.
    """
    made = [folder.absolute() for folder in but]
    found = {os.path.abspath(path): path for each in named for path in _paths(each, made)}
    places, paths = list(map(Path, found)), list(found.values())
    shared = Path(os.path.commonpath([place.parent for place in places]))
    names = [place.relative_to(shared).with_suffix("").as_posix() for place in places]
    counts = Counter(names)
    if max(counts.values()) > 1:  # cat.jpg and cat.png
        names = [f"{name}{path.suffix}" for name, path in zip(names, paths, strict=True)]
    return FileSource(
        [Entry(name, path, None, instruction) for name, path in zip(names, paths, strict=True)]
    )


def _paths(named: str, but: Sequence[Path]) -> list[Path]:
    path = Path(named)
    if path.is_dir():
        known = picture_suffixes()
        found = sorted(
            each for each in path.rglob("*") if each.suffix.lower() in known and each.is_file()
        )
    elif path.is_file():
        found = [path]
    else:
        found = sorted(
            Path(match) for match in glob.glob(named, recursive=True) if Path(match).is_file()
        )
    kept = [
        each for each in found if not any(each.absolute().is_relative_to(folder) for folder in but)
    ]
    if not kept:
        got = f"no picture in {named}" if path.is_dir() else f"{named} (missing)"
        raise UserError(
            "--images",
            expected="files, folders or patterns",
            got=got,
            remedy="give paths from the working directory",
        )
    return kept

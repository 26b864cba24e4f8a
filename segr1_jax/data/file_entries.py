"""Samples that are files: names, paths and truths now, pixels when asked for."""

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path

from segr1_jax.common.picture_formats import picture_suffixes
from segr1_jax.data.images import open_image, upright_size
from segr1_jax.data.truth_masks import Truth
from segr1_jax.errors import UserError
from segr1_jax.types import Example


@dataclasses.dataclass(frozen=True)
class Entry:
    """The files of one sample; `truth` is None for prediction, and may be for a cold start from given answers."""

    name: str
    image: Path
    truth: Truth | None
    instruction: str | None = None
    answer: str | None = None

    def check(self, *, answer_suffices: bool = False) -> None:
        """Read the headers: a readable image with a truth of its shape. Raises UserError otherwise."""
        if self.truth is None and not (answer_suffices and self.answer):
            raise UserError(
                self.name,
                expected="a mask",
                got="no mask",
                remedy="add it, or leave the sample out",
            )
        width, height = upright_size(self.image, "image")
        if self.truth is not None:
            self.truth.check(width, height)


@dataclasses.dataclass(frozen=True)
class FileSource:
    """Examples read from files when asked for; `surplus` are mask files that belong to no image."""

    entries: list[Entry]
    surplus: tuple[Path, ...] = ()

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self.entries]

    @functools.cached_property
    def largest_pixels(self) -> int:
        return max(map(_pixels, {entry.image for entry in self.entries}), default=0)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Example:
        entry = self.entries[index]
        image = open_image(entry.image)
        mask, ignore = (None, None) if entry.truth is None else entry.truth.read(*image.shape[:2])
        return Example(index, entry.name, image, mask, entry.instruction, entry.answer, ignore)


def _pixels(image: Path) -> int:
    """From the header; a file that cannot be read has none, and is an error when it is loaded."""
    try:
        width, height = upright_size(image, "image")
    except UserError:
        return 0
    return width * height


def pictures_by_stem(field: str, folder: Path) -> dict[str, Path]:
    """Picture files of a folder by file stem; hidden ones, which archives of other systems leave behind, are no pictures.

    Raises UserError for no such folder, two pictures of one stem, or a name that is no UTF-8, which no report could hold.
    """
    return _by_path(folder, sorted(_require_directory(field, folder).iterdir()))


def pictures_below(field: str, folder: Path) -> dict[str, Path]:
    """Picture files of a folder and the folders in it, by their path below it without suffix.

    Raises UserError as `pictures_by_stem` does.
    """
    return _by_path(folder, sorted(_require_directory(field, folder).rglob("*")))


def _require_directory(field: str, folder: Path) -> Path:
    """`folder`, which must be a directory."""
    if not folder.is_dir():
        raise UserError(
            field,
            expected="a directory",
            got=repr(str(folder)),
            remedy="set it to the folder that holds the files",
        )
    return folder


def _by_path(folder: Path, paths: Iterable[Path]) -> dict[str, Path]:
    suffixes = picture_suffixes()
    found: dict[str, Path] = {}
    for path in paths:
        below = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in below.parts)
        if path.suffix.lower() not in suffixes or hidden:
            continue
        if not str(below).isprintable():  # bytes that are no UTF-8 arrive as lone surrogates
            raise UserError(
                str(folder),
                expected="file names of printable UTF-8",
                got=ascii(str(below)),
                remedy="rename the file",
            )
        name = below.with_suffix("").as_posix()
        if name in found:
            got = f"{found[name].relative_to(folder)} and {below}"
            raise UserError(
                str(folder),
                expected="one picture per file stem",
                got=got,
                remedy="remove or rename one",
            )
        found[name] = path
    return found

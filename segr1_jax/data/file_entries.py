"""Samples stored in files: names and paths are known, pixels are read on access."""

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path

from segr1_jax.common.picture_formats import picture_suffixes
from segr1_jax.data.images import open_image, upright_size
from segr1_jax.data.pictures import Picture
from segr1_jax.data.truth_masks import Truth
from segr1_jax.errors import UserError
from segr1_jax.types import Example


@dataclasses.dataclass(frozen=True)
class Entry:
    """Pictures of one sample, with its sentence and its answer.

    `truth` is None for prediction, and may be None for a cold start from given answers.
    """

    name: str
    image: Picture
    truth: Truth | None
    instruction: str | None = None
    answer: str | None = None

    def check(self, *, answer_suffices: bool = False) -> None:
        """Read the headers of the files, without decoding pixels.

        Raises UserError unless there is a readable image with a truth of its shape. With
        `answer_suffices` a sample with a given answer needs no truth.
        """
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
    """Source of examples that are read from files; `surplus` are mask files without an image."""

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
        return Example(
            id=index,
            name=entry.name,
            image=image,
            mask=mask,
            instruction=entry.instruction,
            answer=entry.answer,
            ignore=ignore,
        )


def _pixels(image: Picture) -> int:
    """Return the number of pixels from the header.

    It is 0 for a file that cannot be read: loading that sample raises the error.
    """
    try:
        width, height = upright_size(image, "image")
    except UserError:
        return 0
    return width * height


def pictures_by_stem(field: str, folder: Path) -> dict[str, Path]:
    """Return the picture files of a folder by file stem.

    Hidden files are left out: unpacked archives of other systems contain hidden copies.

    Raises:
        UserError: the folder does not exist, two pictures have one stem, or a name is not printable
            UTF-8, which reports could not hold.
    """
    return _by_path(folder, sorted(_require_directory(field, folder).iterdir()))


def pictures_below(field: str, folder: Path) -> dict[str, Path]:
    """Return the picture files of a folder and its subfolders, by their path without suffix.

    Raises:
        UserError: as `pictures_by_stem`.
    """
    return _by_path(folder, sorted(_require_directory(field, folder).rglob("*")))


def _require_directory(field: str, folder: Path) -> Path:
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
    pictures: dict[str, Path] = {}
    for path in paths:
        below = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in below.parts)
        if path.suffix.lower() not in suffixes or is_hidden:
            continue
        # Python decodes bytes that are not UTF-8 to lone surrogates, which are not printable.
        if not str(below).isprintable():
            raise UserError(
                str(folder),
                expected="file names of printable UTF-8",
                got=ascii(str(below)),
                remedy="rename the file",
            )
        name = below.with_suffix("").as_posix()
        if name in pictures:
            raise UserError(
                str(folder),
                expected="one picture per file stem",
                got=f"{pictures[name].relative_to(folder)} and {below}",
                remedy="remove or rename one",
            )
        pictures[name] = path
    return pictures

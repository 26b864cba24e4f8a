"""Where examples come from: a folder of images and masks, a JSONL manifest, a published data set, or the synthetic set."""

import dataclasses
import hashlib
import math
import os
from pathlib import Path
from typing import Protocol, runtime_checkable

from segr1_jax.data.config import DataConfig
from segr1_jax.data.file_entries import Entry, FileSource, pictures_by_stem
from segr1_jax.data.manifest import manifest_entries
from segr1_jax.data.sets.registry import published_split
from segr1_jax.data.synthetic import generate
from segr1_jax.data.truth_masks import MaskFile
from segr1_jax.errors import UserError
from segr1_jax.types import Example

PROBLEMS_SHOWN = 5


@runtime_checkable
class Source(Protocol):
    """Random access to examples; `example.id` is the index. Item access raises UserError for a bad file.

    `largest_pixels` are those of the largest image, without decoding one.
    """

    @property
    def names(self) -> list[str]: ...

    @property
    def largest_pixels(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@dataclasses.dataclass(frozen=True)
class SyntheticSource:
    """Examples drawn on demand; nothing is stored."""

    config: DataConfig

    @property
    def names(self) -> list[str]:
        return [f"{self.config.level}-{self.config.seed}-{index:06d}" for index in range(len(self))]

    @property
    def largest_pixels(self) -> int:
        return self.config.size**2

    def __len__(self) -> int:
        return self.config.count

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return generate(self.config, index)


@dataclasses.dataclass(frozen=True)
class Spread:
    """`count` examples of a source, evenly spread over it; ids are their indices here."""

    source: Source
    count: int

    @property
    def names(self) -> list[str]:
        return [self.source.names[self.origin(index)] for index in range(self.count)]

    @property
    def largest_pixels(self) -> int:
        return self.source.largest_pixels

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return dataclasses.replace(self.source[self.origin(index)], id=index)

    def origin(self, index: int) -> int:
        """Its index in the source."""
        return index * len(self.source) // self.count


def limited(source: Source, limit: int) -> Source:
    """At most `limit` examples of `source`; 0 means all."""
    return Spread(source, limit) if 0 < limit < len(source) else source


@dataclasses.dataclass(frozen=True)
class First:
    """The first `count` examples of a source."""

    source: Source
    count: int

    @property
    def names(self) -> list[str]:
        return list(self.source.names[: self.count])

    @property
    def largest_pixels(self) -> int:
        return self.source.largest_pixels

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.source[index]

    def origin(self, index: int) -> int:
        """Its index in the source."""
        return index


def first(source: Source, count: int) -> Source:
    """At most `count` examples from the beginning of `source`."""
    return First(source, count) if count < len(source) else source


def open_source(config: DataConfig) -> Source:
    """The source that `config` names.

    Raises:
        UserError: missing folders, empty sets, malformed manifests, or a part of a set without files.
    """
    return _part(_whole(config), config)


def _whole(config: DataConfig) -> Source:
    if config.kind == "synthetic":
        return SyntheticSource(config)
    if config.kind == "published":
        found = published_split(Path(config.root), config.set, config.split)
        return _chosen(found, Path(config.ids)) if config.ids else found
    entries = (
        _folder_entries(config)
        if config.kind == "folder"
        else list(manifest_entries(Path(config.manifest)))
    )
    if not entries:
        where = config.images if config.kind == "folder" else config.manifest
        raise UserError(where, expected="at least one sample", got="none", remedy="check the path")
    return FileSource(entries)


def _part(source: Source, config: DataConfig) -> Source:
    """The samples that config.hold_out sets aside, or the others.

    Images are drawn, not samples: all sentences about one image are on the same side. Each image
    has a hash of its own, so one that is added or removed moves few others.
    """
    if config.part == "all":
        return source
    if not isinstance(source, FileSource):
        raise UserError(
            "data.part or eval_data.part",
            expected="all, for a set without image files",
            got=config.part,
            remedy="leave it out; synthetic sets of different seeds are disjoint",
        )
    # A manifest may spell the path of an image in several ways.
    images = [os.path.abspath(entry.image) for entry in source.entries]
    names: dict[str, str] = {}
    for entry, image in zip(source.entries, images, strict=True):
        names.setdefault(image, entry.name)
    ranked = sorted(names, key=lambda image: _rank(config.hold_out_seed, names[image]))
    held_out = set(ranked[: math.ceil(config.hold_out * len(ranked))])
    wanted = config.part == "held_out"
    kept = zip(source.entries, images, strict=True)
    return FileSource([entry for entry, image in kept if (image in held_out) == wanted])


def _rank(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()


def check(source: Source, *, answer_suffices: bool = False) -> None:
    """Read every file's header before training: each image has a mask, both are pictures, their shapes agree.

    With `answer_suffices` a sample with a given answer needs no mask.
    Raises one UserError that names the first few bad samples and counts the rest. Pixels are not decoded.
    """
    if not isinstance(source, FileSource):
        return
    problems = [
        problem for entry in source.entries if (problem := _problem(entry, answer_suffices))
    ]
    if problems:
        more = (
            f" (and {len(problems) - PROBLEMS_SHOWN} more)"
            if len(problems) > PROBLEMS_SHOWN
            else ""
        )
        raise UserError(
            f"{len(problems)} of {len(source)} samples",
            expected="a readable image with a mask of its shape",
            got="; ".join(problems[:PROBLEMS_SHOWN]) + more,
            remedy="mend these files, or leave them out of the ids file or manifest",
        )


def _problem(entry: Entry, answer_suffices: bool) -> str | None:
    try:
        entry.check(answer_suffices=answer_suffices)
    except UserError as error:
        return f"{error.where}: expected {error.expected}, got {error.got}"
    return None


def _folder_entries(config: DataConfig) -> list[Entry]:
    images = pictures_by_stem("data.images or eval_data.images", Path(config.images))
    masks = (
        pictures_by_stem("data.masks or eval_data.masks", Path(config.masks))
        if config.masks
        else {}
    )
    stems = sorted(images) if not config.ids else _read_lines(Path(config.ids))
    if unknown := [stem for stem in stems if stem not in images]:
        remedy = f"correct {config.ids} or add the images"
        raise UserError(
            config.images,
            expected=f"an image for {unknown[0]!r}",
            got=f"none ({len(unknown)} such ids)",
            remedy=remedy,
        )
    return [
        Entry(stem, images[stem], MaskFile(masks[stem]) if stem in masks else None)
        for stem in stems
    ]


def _chosen(source: Source, ids: Path) -> FileSource:
    """The samples that `ids` names, in its order."""
    if not isinstance(source, FileSource):
        raise UserError(
            "data.ids or eval_data.ids",
            expected="a set of images with masks",
            got="one of answers",
            remedy="leave ids empty",
        )
    entries, names = {entry.name: entry for entry in source.entries}, _read_lines(ids)
    if unknown := [name for name in names if name not in entries]:
        got = f"{unknown[0]!r} ({len(unknown)} such)"
        raise UserError(
            str(ids),
            expected="names of samples of this split",
            got=got,
            remedy="correct it; `segr1 data check` reads the set",
        )
    return FileSource([entries[name] for name in names])


def _read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped."""
    try:
        return [
            line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            str(path), expected="a text file", got=str(error), remedy="correct the path"
        ) from error

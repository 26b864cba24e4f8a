"""Sources of examples: folders, a JSONL manifest, rows, a published set, or the synthetic set."""

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Protocol, runtime_checkable

from segr1_jax.data.config import DataConfig
from segr1_jax.data.file_entries import Entry, FileSource, pictures_by_stem
from segr1_jax.data.hub_rows import hub_entries
from segr1_jax.data.manifest import manifest_entries
from segr1_jax.data.pictures import picture_key
from segr1_jax.data.sets.registry import published_split
from segr1_jax.data.synthetic import generate
from segr1_jax.data.truth_masks import MaskFile
from segr1_jax.errors import UserError
from segr1_jax.types import Example

PROBLEMS_SHOWN = 5


@runtime_checkable
class Source(Protocol):
    """Random access to examples; `example.id` is the index.

    Item access raises UserError for a bad file. `largest_pixels` is the number of pixels of the
    largest image, computed without decoding images.
    """

    @property
    def names(self) -> list[str]: ...

    @property
    def largest_pixels(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@dataclasses.dataclass(frozen=True)
class SyntheticSource:
    """Examples of the synthetic set, rendered on access."""

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
    """Selection of `count` examples, evenly spread over a source; ids are indices in it."""

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
        """Return the index in the source."""
        return index * len(self.source) // self.count


def limited(source: Source, limit: int) -> Source:
    """Return at most `limit` examples of `source`, evenly spread; 0 means all."""
    return Spread(source, limit) if 0 < limit < len(source) else source


@dataclasses.dataclass(frozen=True)
class First:
    """Selection of the first `count` examples of a source."""

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
        """Return the index in the source."""
        return index


def first(source: Source, count: int) -> Source:
    """Return at most `count` examples from the beginning of `source`."""
    return First(source, count) if count < len(source) else source


def open_source(config: DataConfig) -> Source:
    """Open the source that `config` names.

    Raises:
        UserError: a folder is missing, the set is empty, a manifest is malformed, or a part is
            requested of a set without files.
    """
    return _part(_whole(config), config)


def _whole(config: DataConfig) -> Source:
    if config.kind == "synthetic":
        return SyntheticSource(config)
    if config.kind == "published":
        split = published_split(Path(config.root), config.set, config.split)
        return _chosen(split, Path(config.ids)) if config.ids else split
    if config.kind == "folder":
        entries, where = _folder_entries(config), config.images
    elif config.kind == "hub":
        entries, where = hub_entries(config), config.path
    else:
        entries, where = list(manifest_entries(Path(config.manifest))), config.manifest
    if not entries:
        raise UserError(where, expected="at least one sample", got="none", remedy="check the path")
    return FileSource(entries)


def _part(source: Source, config: DataConfig) -> Source:
    """Return the samples that config.hold_out sets aside, or the others.

    It chooses images, not samples: all sentences about one image are in the same part. Images are
    ranked by a hash of their name, so adding or removing an image moves few others.
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
    # A manifest may spell the path of an image in several ways, and rows may repeat an image.
    images = [picture_key(entry.image) for entry in source.entries]
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
    """Check all files of a source before training: readable images with masks of their shape.

    Only headers are read, and pixels are not decoded. With `answer_suffices` a sample with a given
    answer needs no mask. Raises one UserError that names the first few bad samples and the number
    of the others.
    """
    if not isinstance(source, FileSource):
        return
    problems = [
        problem for entry in source.entries if (problem := _problem(entry, answer_suffices))
    ]
    if problems:
        others = len(problems) - PROBLEMS_SHOWN
        more = f" (and {others} more)" if others > 0 else ""
        raise UserError(
            f"{len(problems)} of {len(source)} samples",
            expected="a readable image with a mask of its shape",
            got="; ".join(problems[:PROBLEMS_SHOWN]) + more,
            remedy="fix these files, or leave them out of the ids file or manifest",
        )


def _problem(entry: Entry, answer_suffices: bool) -> str | None:
    try:
        entry.check(answer_suffices=answer_suffices)
    except UserError as error:
        return f"{error.where}: expected {error.expected}, got {error.got}"
    return None


def _folder_entries(config: DataConfig) -> list[Entry]:
    images = pictures_by_stem("data.images or eval_data.images", Path(config.images))
    masks = {}
    if config.masks:
        masks = pictures_by_stem("data.masks or eval_data.masks", Path(config.masks))
    stems = sorted(images) if not config.ids else _read_lines(Path(config.ids))
    if unknown := [stem for stem in stems if stem not in images]:
        raise UserError(
            config.images,
            expected=f"an image for {unknown[0]!r}",
            got=f"none ({len(unknown)} such ids)",
            remedy=f"correct {config.ids} or add the images",
        )
    return [
        Entry(stem, images[stem], MaskFile(masks[stem]) if stem in masks else None)
        for stem in stems
    ]


def _chosen(source: Source, ids: Path) -> FileSource:
    """Return the samples that the file `ids` names, in its order."""
    if not isinstance(source, FileSource):
        raise UserError(
            "data.ids or eval_data.ids",
            expected="a set of images with masks",
            got="a set of answers",
            remedy="leave ids empty",
        )
    entries = {entry.name: entry for entry in source.entries}
    names = _read_lines(ids)
    if unknown := [name for name in names if name not in entries]:
        raise UserError(
            str(ids),
            expected="names of samples of this split",
            got=f"{unknown[0]!r} ({len(unknown)} such)",
            remedy="correct the names; `segr1 data check` checks the set",
        )
    return FileSource([entries[name] for name in names])


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank, stripped."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [line.strip() for line in lines if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            str(path), expected="a text file", got=str(error), remedy="correct the path"
        ) from error

"""Where examples come from: a folder of images and masks, a JSONL manifest, or the synthetic set."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image

from segr1_jax.data.config import DataConfig
from segr1_jax.data.images import open_image, open_mask, require_same_size, upright_size
from segr1_jax.data.records import read_records
from segr1_jax.data.synthetic import generate
from segr1_jax.errors import UserError
from segr1_jax.types import Example

PROBLEMS_SHOWN = 5


@runtime_checkable
class Source(Protocol):
    """Random access to examples; `example.id` is the index. Item access raises UserError for a bad file."""

    @property
    def names(self) -> list[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@dataclasses.dataclass(frozen=True)
class Entry:
    """The files of one sample; `mask` is None for prediction, and may be for a cold start from given answers."""

    name: str
    image: Path
    mask: Path | None
    instruction: str | None = None
    answer: str | None = None


@dataclasses.dataclass(frozen=True)
class FileSource:
    """Examples read from files when asked for."""

    entries: list[Entry]

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self.entries]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Example:
        entry = self.entries[index]
        image = open_image(entry.image)
        mask = None if entry.mask is None else open_mask(entry.mask, *image.shape[:2])
        return Example(id=index, name=entry.name, image=image, mask=mask, instruction=entry.instruction, answer=entry.answer)


@dataclasses.dataclass(frozen=True)
class SyntheticSource:
    """Examples drawn on demand; nothing is stored."""

    config: DataConfig

    @property
    def names(self) -> list[str]:
        return [f"{self.config.level}-{self.config.seed}-{index:06d}" for index in range(len(self))]

    def __len__(self) -> int:
        return self.config.count

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return generate(self.config, index)


def open_source(config: DataConfig) -> Source:
    """The source that `config` names. Raises UserError for missing folders, empty sets and malformed manifests."""
    if config.kind == "synthetic":
        return SyntheticSource(config)
    entries = _folder_entries(config) if config.kind == "folder" else list(_manifest_entries(config))
    if not entries:
        where = config.images if config.kind == "folder" else config.manifest
        raise UserError(where, expected="at least one sample", got="none", remedy="check the path")
    return FileSource(entries)


def check(source: Source, *, answer_suffices: bool = False) -> None:
    """Read every file's header before training: each image has a mask, both are pictures, their sizes agree.

    With `answer_suffices` a sample with a given answer needs no mask.
    Raises one UserError that names the first few bad samples and counts the rest. Pixels are not decoded.
    """
    if not isinstance(source, FileSource):
        return
    problems = [problem for entry in source.entries if (problem := _problem(entry, answer_suffices))]
    if problems:
        more = f" (and {len(problems) - PROBLEMS_SHOWN} more)" if len(problems) > PROBLEMS_SHOWN else ""
        raise UserError(
            f"{len(problems)} of {len(source)} samples",
            expected="a readable image with a mask of its size",
            got="; ".join(problems[:PROBLEMS_SHOWN]) + more,
            remedy="mend these files, or leave them out of the ids file or manifest",
        )


def _problem(entry: Entry, answer_suffices: bool) -> str | None:
    if entry.mask is None and not (answer_suffices and entry.answer):
        return f"{entry.name}: no mask"
    try:
        if entry.mask is None:
            upright_size(entry.image, "image")
            return None
        require_same_size(entry.mask, upright_size(entry.mask, "mask"), upright_size(entry.image, "image"))
    except UserError as error:
        return f"{error.where}: expected {error.expected}, got {error.got}"
    return None


def _folder_entries(config: DataConfig) -> list[Entry]:
    images = _by_stem("data.images", config.images)
    masks = _by_stem("data.masks", config.masks) if config.masks else {}
    stems = sorted(images) if not config.ids else _read_lines(Path(config.ids))
    if unknown := [stem for stem in stems if stem not in images]:
        remedy = f"correct {config.ids} or add the images"
        raise UserError(config.images, expected=f"an image for {unknown[0]!r}", got=f"none ({len(unknown)} such ids)", remedy=remedy)
    return [Entry(stem, images[stem], masks.get(stem)) for stem in stems]


def _by_stem(field: str, folder: str) -> dict[str, Path]:
    """Picture files of a folder by file stem."""
    if not Path(folder).is_dir():
        raise UserError(field, expected="a directory", got=repr(folder), remedy="set it to the folder that holds the files")
    suffixes = Image.registered_extensions()
    found: dict[str, Path] = {}
    for path in sorted(Path(folder).iterdir()):
        if path.suffix.lower() not in suffixes:
            continue
        if path.stem in found:
            got = f"{found[path.stem].name} and {path.name}"
            raise UserError(folder, expected="one picture per file stem", got=got, remedy="remove or rename one")
        found[path.stem] = path
    return found


def _manifest_entries(config: DataConfig) -> Iterator[Entry]:
    path = Path(config.manifest)
    for _, record in read_records(path, paths=("image",), optional=("mask", "instruction", "answer")):
        mask = path.parent / record["mask"] if record.get("mask") else None
        yield Entry(record["image"], path.parent / record["image"], mask, record.get("instruction") or None, record.get("answer") or None)


def _read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(str(path), expected="a text file", got=str(error), remedy="correct the path") from error

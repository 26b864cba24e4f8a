"""Samples in the rows of a Hugging Face data set: an image, a mask and, optionally, a sentence.

`datasets` reads only local files: hf/hub.py has already downloaded the repository. `datasets`
converts parquet to Arrow once, in its own cache, and memory-maps the Arrow files, so a set may be
larger than memory, and a row is read only when it is used.
"""

import contextlib
import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from segr1_jax.common.hub_ids import cached_id
from segr1_jax.common.optional_packages import optional_package
from segr1_jax.data.config import DataConfig
from segr1_jax.data.file_entries import Entry
from segr1_jax.data.pictures import Cell, Picture
from segr1_jax.data.truth_masks import MaskFile
from segr1_jax.errors import UserError

EXTRA = "hub"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Files that save_to_disk writes for one table, and for several splits.
ONE_TABLE, SPLITS = "state.json", "dataset_dict.json"


def hub_entries(config: DataConfig) -> list[Entry]:
    """Return one entry for each row of the set in config.path, named by its row number.

    Raises:
        UserError: not a data set, no such split, subset or column, damaged files, or a full disk.
    """
    datasets = optional_package("datasets", EXTRA)
    table = _load(datasets, config)
    images = _pictures(datasets, table, config.image_column, config)
    masks = _pictures(datasets, table, config.mask_column, config)
    sentences = _sentences(table, config)
    return [
        Entry(
            name=f"{row:06d}",
            image=image,
            truth=None if mask is None else MaskFile(mask),
            instruction=sentence or None,
        )
        for row, (image, mask, sentence) in enumerate(zip(images, masks, sentences, strict=True))
    ]


def split_names(config: DataConfig) -> list[str]:
    """Return the names of the splits; a single file or table has one, which has no name."""
    datasets = optional_package("datasets", EXTRA)
    path = Path(config.path)
    if path.is_file() or (path / ONE_TABLE).is_file():
        return [""]
    with _naming_faults(datasets, config):
        if (path / SPLITS).is_file():
            return list(datasets.load_from_disk(path))
        return datasets.get_dataset_split_names(str(path), config.subset or None)


def _load(datasets: ModuleType, config: DataConfig) -> Any:
    """Return the datasets.Dataset of one split."""
    path = Path(config.path)
    with _naming_faults(datasets, config):
        if (path / ONE_TABLE).is_file():
            return datasets.load_from_disk(path)
        if (path / SPLITS).is_file():
            splits = datasets.load_from_disk(path)
            if config.split not in splits:
                raise ValueError(f"Unknown split {config.split!r}. It has {list(splits)}.")
            return splits[config.split]
        if path.is_file():
            return datasets.load_dataset("parquet", data_files=str(path), split="train")
        return datasets.load_dataset(str(path), config.subset or None, split=config.split)


@contextlib.contextmanager
def _naming_faults(datasets: ModuleType, config: DataConfig) -> Iterator[None]:
    """Raise UserError that names the set where `datasets` meets a fault of its files."""
    arrow = optional_package("pyarrow", EXTRA).lib.ArrowException
    try:
        yield
    except (OSError, ValueError, arrow, datasets.exceptions.DatasetsError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, OSError) and cause.errno in FULL:
            expected, remedy = (
                "space for its Arrow files",
                "free some space, or set HF_HOME to another disk",
            )
        else:
            expected, remedy = (
                "a data set with this split and subset",
                "correct data.path, .split or .subset, or download the files again",
            )
        raise UserError(
            _where(config),
            expected=expected,
            got=" ".join(str(cause).split())[:300],
            remedy=remedy,
        ) from error


def _where(config: DataConfig) -> str:
    """Return the set as its user names it: a path, or a repository and its commit."""
    return str(cached_id(config.path) or config.path)


def _pictures(
    datasets: ModuleType, table: Any, name: str, config: DataConfig
) -> list[Picture | None]:
    """Return the pictures of a column; a cell that names a file is the path of this file.

    An empty mask is None. An empty image stays a cell, which raises UserError if it is opened.
    """
    types = optional_package("pyarrow.types", EXTRA)
    compute = optional_package("pyarrow.compute", EXTRA)
    _require_column(table, name, config)
    if types.is_binary(table.data.schema.field(name).type):
        table = table.cast_column(name, datasets.Image())
    kind = table.data.schema.field(name).type
    if not types.is_struct(kind) or {field.name for field in kind} != {"bytes", "path"}:
        raise _other_column(table, f"pictures in {name!r}", config)
    # All rows, in order: `datasets` writes files without selections of rows.
    column = table.data.column(name)
    empty = compute.is_null(compute.struct_field(column, "bytes")).to_pylist()
    paths = compute.struct_field(column, "path").to_pylist() if any(empty) else [None] * len(empty)
    is_mask, where = name == config.mask_column, _where(config)
    pictures: list[Picture | None] = []
    for row, (is_empty, path) in enumerate(zip(empty, paths, strict=True)):
        if is_empty and path:
            pictures.append(Path(path))
        elif is_empty and is_mask:
            pictures.append(None)
        else:
            pictures.append(Cell(column, row, f"{where}: row {row}, {name}"))
    return pictures


def _sentences(table: Any, config: DataConfig) -> Sequence[str | None]:
    if not config.sentence_column:
        return [None] * len(table)
    _require_column(table, config.sentence_column, config)
    types = optional_package("pyarrow.types", EXTRA)
    column = table.data.column(config.sentence_column)
    if not (types.is_string(column.type) or types.is_large_string(column.type)):
        raise _other_column(table, f"texts in {config.sentence_column!r}", config)
    return column.to_pylist()


def _require_column(table: Any, name: str, config: DataConfig) -> None:
    if name not in table.column_names:
        raise _other_column(table, f"the column {name!r}", config)


def _other_column(table: Any, expected: str, config: DataConfig) -> UserError:
    kinds = ", ".join(f"{column} ({table.features[column]})" for column in table.column_names)
    return UserError(
        _where(config),
        expected=expected,
        got=f"the columns {kinds}"[:400],
        remedy="set data.image_column, .mask_column or .sentence_column, or those of eval_data",
    )

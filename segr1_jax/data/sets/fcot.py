"""FCoT, the cold start's answers: parquet files of the Hugging Face set geshang/FCoT, images inside.

Layout: FCoT/data/train-*.parquet with the columns image {bytes, path}, thinking, problem, solution. The answer is thinking, a space and
solution, as the reference code trains on it; `problem` repeats one request, whose wording the prompts of this package own.
"""

import bisect
import dataclasses
import functools
import itertools
import threading
from pathlib import Path
from typing import Any

from segr1_jax.common.optional_packages import optional_package
from segr1_jax.data.images import open_image
from segr1_jax.data.sets.published import PublishedSet, require_folder
from segr1_jax.errors import UserError
from segr1_jax.types import Example

FOLDER = "FCoT"
COLUMNS = {
    "image": "struct<bytes: binary",
    "thinking": "string",
    "solution": "string",
}  # name -> what its Arrow type holds
LARGEST_PIXELS = 12_000_000


@dataclasses.dataclass(frozen=True)
class AnswerSource:
    """Examples with answers and no masks, read from parquet files one row group at a time."""

    files: tuple[Path, ...]
    lock: threading.Lock = dataclasses.field(
        default_factory=threading.Lock, compare=False
    )  # a reader thread holds one group in memory

    @property
    def names(self) -> list[str]:
        return [f"{index:06d}" for index in range(len(self))]

    @property
    def largest_pixels(self) -> int:
        """An assumption: the pictures lie in row groups, and reading every one would cost more."""
        return LARGEST_PIXELS

    def __len__(self) -> int:
        return self._groups[-1][2]

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        position = bisect.bisect_right([end for _, _, end in self._groups], index)
        file, group, end = self._groups[position]
        with self.lock:
            rows = _read_group(file, group)
            row = {name: rows[name][index - end] for name in COLUMNS}
        name = self.names[index]
        if not (row["image"] and row["image"].get("bytes") and row["thinking"] and row["solution"]):
            raise UserError(
                f"{file}: row {name}",
                expected="image bytes, thinking and solution",
                got="an empty field",
                remedy="mend it",
            )
        image = open_image(file / name, row["image"]["bytes"])
        return Example(
            index, name, image, None, answer=f"{row['thinking'].strip()} {row['solution'].strip()}"
        )

    @functools.cached_property
    def _groups(self) -> list[tuple[Path, int, int]]:
        """(file, row group, rows up to its end) of every group, in order."""
        sizes = [
            (file, group, rows)
            for file in self.files
            for group, rows in enumerate(_group_sizes(file))
        ]
        ends = itertools.accumulate(rows for _, _, rows in sizes)
        return [(file, group, end) for (file, group, _), end in zip(sizes, ends, strict=True)]


def read_fcot(root: Path, split: str) -> AnswerSource:
    """Raises UserError for missing or foreign files."""
    folder = require_folder(root / FOLDER / "data")
    files = tuple(sorted(folder.glob(f"{split}-*.parquet")))
    source = AnswerSource(files)
    if not files or not len(source):
        raise UserError(
            str(folder),
            expected=f"{split}-*.parquet with rows",
            got=f"{len(files)} files",
            remedy="download geshang/FCoT",
        )
    return source


def _group_sizes(file: Path) -> list[int]:
    parquet, errors = (
        optional_package("pyarrow.parquet", "eval"),
        optional_package("pyarrow", "eval").lib,
    )
    try:
        found = parquet.ParquetFile(file)
    except (OSError, errors.ArrowException) as error:
        raise UserError(
            str(file), expected="a parquet file", got=str(error)[:200], remedy="download it again"
        ) from error
    with found:
        if missing := [
            name for name, kind in COLUMNS.items() if kind not in str(_type(found, name))
        ]:
            got = f"{missing[0]!r} of type {_type(found, missing[0])}"
            raise UserError(
                str(file), expected=f"the columns {COLUMNS}", got=got, remedy="use geshang/FCoT"
            )
        return [found.metadata.row_group(group).num_rows for group in range(found.num_row_groups)]


def _type(found: Any, name: str) -> Any:
    return found.schema_arrow.field(name).type if name in found.schema_arrow.names else None


@functools.lru_cache(maxsize=2)
def _read_group(file: Path, group: int) -> dict[str, list]:
    parquet, errors = (
        optional_package("pyarrow.parquet", "eval"),
        optional_package("pyarrow", "eval").lib,
    )
    try:
        with parquet.ParquetFile(file) as found:
            return found.read_row_group(group, columns=list(COLUMNS)).to_pydict()
    except (OSError, ValueError, errors.ArrowException) as error:
        raise UserError(
            f"{file}: row group {group}",
            expected="readable rows",
            got=str(error)[:200],
            remedy="download it again",
        ) from error


FCOT = PublishedSet("FCoT", FOLDER, "answers", {"train": 1500}, read_fcot)

"""FCoT, answers for the cold start: parquet files of the Hugging Face set geshang/FCoT.

Layout: FCoT/data/train-*.parquet with the columns image {bytes, path}, thinking, problem and
solution. The answer is thinking, a space and solution, as in the reference code. `problem` is the
same request in every row and is not used: prompt/wording.py has the request.
"""

import bisect
import dataclasses
import functools
import io
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
# Column -> a text that the name of its Arrow type contains.
COLUMNS = {
    "image": "struct<bytes: binary",
    "thinking": "string",
    "solution": "string",
}
LARGEST_PIXELS = 12_000_000


@dataclasses.dataclass(frozen=True)
class AnswerSource:
    """Examples with answers and no masks, read from parquet files one row group at a time."""

    files: tuple[Path, ...]
    # Only one thread reads at a time, so that threads share the cached row groups.
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, compare=False)

    @property
    def names(self) -> list[str]:
        return [f"{index:06d}" for index in range(len(self))]

    @property
    def largest_pixels(self) -> int:
        """Assumed size of the largest image.

        Images are stored inside row groups, and reading all of them would take too long.
        """
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
                remedy="download the file again",
            )
        return Example(
            id=index,
            name=name,
            image=open_image(file / name, io.BytesIO(row["image"]["bytes"])),
            mask=None,
            answer=f"{row['thinking'].strip()} {row['solution'].strip()}",
        )

    @functools.cached_property
    def _groups(self) -> list[tuple[Path, int, int]]:
        """Tuples (file, row group, number of rows up to its end), in order."""
        sizes = [
            (file, group, rows)
            for file in self.files
            for group, rows in enumerate(_group_sizes(file))
        ]
        ends = itertools.accumulate(rows for _, _, rows in sizes)
        return [(file, group, end) for (file, group, _), end in zip(sizes, ends, strict=True)]


def read_fcot(root: Path, split: str) -> AnswerSource:
    """Open a split. Raises UserError for missing files and files of another set."""
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
    """Return the number of rows of each row group."""
    parquet = optional_package("pyarrow.parquet", "eval")
    errors = optional_package("pyarrow", "eval").lib
    try:
        table = parquet.ParquetFile(file)
    except (OSError, errors.ArrowException) as error:
        raise UserError(
            str(file), expected="a parquet file", got=str(error)[:200], remedy="download it again"
        ) from error
    with table:
        if missing := [
            name for name, kind in COLUMNS.items() if kind not in str(_type(table, name))
        ]:
            got = f"{missing[0]!r} of type {_type(table, missing[0])}"
            raise UserError(
                str(file), expected=f"the columns {COLUMNS}", got=got, remedy="use geshang/FCoT"
            )
        return [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]


def _type(table: Any, name: str) -> Any:
    """Return the Arrow type of a column, None for a missing one."""
    return table.schema_arrow.field(name).type if name in table.schema_arrow.names else None


@functools.lru_cache(maxsize=2)
def _read_group(file: Path, group: int) -> dict[str, list]:
    parquet = optional_package("pyarrow.parquet", "eval")
    errors = optional_package("pyarrow", "eval").lib
    try:
        with parquet.ParquetFile(file) as table:
            return table.read_row_group(group, columns=list(COLUMNS)).to_pydict()
    except (OSError, ValueError, errors.ArrowException) as error:
        raise UserError(
            f"{file}: row group {group}",
            expected="readable rows",
            got=str(error)[:200],
            remedy="download it again",
        ) from error


FCOT = PublishedSet(
    title="FCoT", folder=FOLDER, kind="answers", counts={"train": 1500}, read=read_fcot
)

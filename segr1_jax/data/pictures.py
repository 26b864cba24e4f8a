"""Stored pictures of samples: a file, or a cell of a table that is mapped into memory."""

import dataclasses
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from segr1_jax.common.optional_packages import optional_package
from segr1_jax.errors import UserError

END_BYTES = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """Picture in a row of a table: the bytes of a picture file.

    Attributes:
        column: pyarrow.ChunkedArray of struct<bytes, path>. Opening a cell copies nothing, and
            reading the header of its picture reads only these pages of the table.
        row: index in the column.
        where: the cell in errors.
    """

    column: Any
    row: int
    where: str

    def __str__(self) -> str:
        return self.where

    def open(self) -> io.BufferedIOBase:
        """Return the content as a file. Raises UserError for an empty cell."""
        content = self._content()
        if content is None:
            raise UserError(
                self.where,
                expected="a picture",
                got="an empty cell",
                remedy="fill it, or leave the row out",
            )
        return io.BufferedReader(optional_package("pyarrow", "hub").BufferReader(content))

    def fingerprint(self) -> str:
        """Return a hash over the size and both ends of the content, which reads two pages.

        Cells with the same picture have the same fingerprint. Two compressed pictures that differ
        have different ones, for all practical purposes.
        """
        content = memoryview(self._content() or b"")
        ends = bytes(content[:END_BYTES]) + bytes(content[-END_BYTES:])
        return hashlib.blake2b(b"%d " % len(content) + ends, digest_size=16).hexdigest()

    def _content(self) -> Any:
        """Return the bytes as a pyarrow.Buffer inside the table; None where the cell is empty.

        A scalar of pyarrow would be a copy, so the buffer is cut by its offsets.
        """
        row = self.column.slice(self.row, 1).chunk(0)
        content = row.field("bytes")
        if row.null_count or content.null_count:
            return None
        _, offsets, values = content.buffers()
        width = np.int64 if str(content.type).startswith("large_") else np.int32
        start, end = np.frombuffer(offsets, width)[content.offset :][:2].tolist()
        return values.slice(start, end - start)


Picture = Path | Cell


def picture_key(picture: Picture) -> str:
    """Return a text that the same picture always has: its absolute path, or its fingerprint."""
    return picture.fingerprint() if isinstance(picture, Cell) else os.path.abspath(picture)

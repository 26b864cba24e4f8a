"""Safetensors files as memory maps: F32, F16 or BF16, any slice, without reading unused values.

`get_slice` of the safetensors package cannot read BF16 into numpy, so the header is read here. A
file is 8 bytes of little-endian header length, a JSON header, and the values.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from segr1_jax.common.json_fields import read_object
from segr1_jax.errors import UserError

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
MAX_HEADER = 100 * 2**20
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
REMEDY = "copy or download the file again"


@dataclass(frozen=True)
class StoredTensor:
    """Tensor inside a file; `view()` maps it without reading it."""

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    def view(self) -> np.ndarray:
        return np.memmap(self.file, self.dtype, mode="r", offset=self.offset, shape=self.shape)

    @property
    def end(self) -> int:
        """Offset of the first byte after the tensor."""
        return self.offset + self.dtype.itemsize * math.prod(self.shape)


def open_checkpoint(directory: Path) -> dict[str, StoredTensor]:
    """Return all tensors of a Hugging Face directory, with or without shards.

    Raises:
        UserError: no weights, a missing or truncated shard, a header that is not safetensors.
    """
    index = directory / INDEX
    names = _shards(index) if index.exists() else [SINGLE]
    tensors: dict[str, StoredTensor] = {}
    for name in names:
        for key, tensor in read_header(directory / name).items():
            if key in tensors:
                raise UserError(
                    str(directory / name),
                    expected="each tensor once",
                    got=f"{key} also in {tensors[key].file.name}",
                    remedy="remove one shard",
                )
            tensors[key] = tensor
    return tensors


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one file; all offsets are checked against the size of the file."""
    if not file.is_file():
        raise UserError(
            str(file),
            expected="a safetensors file",
            got="no such file",
            remedy="download the missing shard, or name the right directory",
        )
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 0 < length <= min(MAX_HEADER, size - 8):
            got = f"a header length of {length} in {size} bytes"
            raise _broken(file, "a safetensors header", got)
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError):
            raise _broken(file, "a JSON header", "something else") from None
    if not isinstance(header, dict):
        raise _broken(file, "a JSON object as header", f"a {type(header).__name__}")
    start = 8 + length
    entries = {name: fields for name, fields in header.items() if name != "__metadata__"}
    tensors = {name: _stored(file, name, fields, start) for name, fields in entries.items()}
    _check_coverage(file, tensors, start, size)
    return tensors


def _shards(index: Path) -> list[str]:
    """Return the names of the files in an index. They must be in its directory."""
    files = read_object(index, remedy=REMEDY).get("weight_map")
    if not isinstance(files, dict):
        raise _broken(index, "weight_map, from tensors to files", repr(files)[:80])
    for name in files.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise _broken(index, "names of files in the same directory", repr(name)[:80])
    return sorted(set(files.values()))


def _stored(file: Path, name: str, fields: Any, start: int) -> StoredTensor:
    match fields:
        case {"dtype": str(code), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise _broken(file, f"{name} with dtype, shape and data_offsets", repr(fields)[:80])
    if code not in DTYPES:
        raise UserError(
            f"{file}: {name}",
            expected=f"one of {', '.join(DTYPES)}",
            got=code,
            remedy="convert the checkpoint to BF16 or F32",
        )
    if not all(type(size) is int and size >= 0 for size in shape):
        raise _broken(file, f"a shape of {name}", str(shape))
    if begin < 0 or end - begin != DTYPES[code].itemsize * math.prod(shape):
        raise _broken(file, f"{name} as {shape} {code}", f"bytes {begin} to {end}")
    return StoredTensor(file, DTYPES[code], tuple(shape), start + begin)


def _check_coverage(file: Path, tensors: Mapping[str, StoredTensor], start: int, size: int) -> None:
    """Check that the tensors fill the file without gap or overlap, as the format requires."""
    end = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].end)):
        if tensor.offset != end:
            got = f"{name} at byte {tensor.offset}"
            raise _broken(file, f"consecutive tensors, the next at byte {end}", got)
        end = tensor.end
    if end != size:
        got = f"{size}: the file is truncated" if size < end else str(size)
        raise _broken(file, f"{end} bytes, where its last tensor ends", got)


def _broken(file: Path, expected: str, got: str) -> UserError:
    return UserError(str(file), expected=expected, got=got, remedy=REMEDY)

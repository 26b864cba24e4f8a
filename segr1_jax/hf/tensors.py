"""Safetensors files as memory maps: any dtype (BF16 included), any slice, nothing read that is not used.

numpy's `get_slice` of the safetensors package cannot read BF16, so the header is read here (8 bytes little-endian length, JSON, data).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from segr1_jax.errors import UserError

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
MAX_HEADER = 100 * 2**20
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@dataclass(frozen=True)
class StoredTensor:
    """One tensor inside a file; `view()` maps it without reading."""

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    def view(self) -> np.ndarray:
        return np.memmap(self.file, self.dtype, mode="r", offset=self.offset, shape=self.shape)


def open_checkpoint(directory: Path) -> dict[str, StoredTensor]:
    """All tensors of a Hugging Face directory, sharded or not.

    Raises:
        UserError: no weights, a missing or truncated shard, a header that is not safetensors.
    """
    index = directory / INDEX
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (json.JSONDecodeError, KeyError) as error:
            raise UserError(
                str(index),
                expected="a safetensors index",
                got=repr(error),
                remedy="copy or download the file again",
            ) from None
    else:
        names = [SINGLE]
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
    """The tensors of one file, every length checked against the file's size."""
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
            raise UserError(
                str(file),
                expected="a safetensors header",
                got=f"a header length of {length} in {size} bytes",
                remedy="copy or download the file again",
            )
        try:
            header = json.loads(stream.read(length))
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise UserError(
                str(file),
                expected="a JSON header",
                got="something else",
                remedy="copy or download the file again",
            ) from None
    return {
        name: _stored(file, name, fields, 8 + length, size)
        for name, fields in header.items()
        if name != "__metadata__"
    }


def _stored(file: Path, name: str, fields: dict, start: int, size: int) -> StoredTensor:
    if fields["dtype"] not in DTYPES:
        raise UserError(
            f"{file}: {name}",
            expected=f"one of {', '.join(DTYPES)}",
            got=fields["dtype"],
            remedy="convert the checkpoint to BF16 or F32",
        )
    dtype, shape = DTYPES[fields["dtype"]], tuple(fields["shape"])
    begin, end = fields["data_offsets"]
    if end - begin != dtype.itemsize * int(np.prod(shape)) or start + end > size:
        raise UserError(
            f"{file}: {name}",
            expected=f"{shape} {fields['dtype']} inside {size} bytes",
            got=f"bytes {begin} to {end}",
            remedy="the file is cut short: copy or download it again",
        )
    return StoredTensor(file, dtype, shape, start + begin)

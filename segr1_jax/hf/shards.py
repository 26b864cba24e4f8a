"""Writing of weights from the devices to safetensors shards, a few rows at a time.

The host never holds a whole tensor. The safetensors package writes only tensors in memory, so the
file format is written here (safetensors_file.py reads it): 8 bytes of little-endian header length,
a JSON header, and the bytes of the tensors in the order of the header.
"""

import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.typing import ArrayLike
from rich.console import Console
from rich.progress import track

from segr1_jax.hf.keys import Key, stored_name, stored_shape, table
from segr1_jax.hf.safetensors_file import DTYPES, INDEX, SINGLE
from segr1_jax.policy.params import STACKED, Params, Policy

SHARD_BYTES = 5 * 10**9
PIECE_BYTES = 256 * 2**20
ALIGNMENT = 8  # of the first tensor; safetensors pads the header with spaces


@dataclass(frozen=True)
class Outgoing:
    """Tensor to store.

    Attributes:
        name: its Hugging Face name.
        parts: our weights that the tensor joins, in order.
        layer: the layer of these weights, None where they are not stacked.
        turned: the tensor is the transpose of our weights.
        shape: its stored shape.
        dtype: its stored dtype.
    """

    name: str
    parts: tuple[jax.Array, ...]
    layer: int | None
    turned: bool
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield the values in stored order and dtype, in whole rows of at most PIECE_BYTES."""
        step = max(1, PIECE_BYTES * self.shape[0] // self.nbytes)
        for part in self.parts:
            # The axis of our weight that holds the rows of the stored tensor.
            axis = part.ndim - 1 if self.turned else int(self.layer is not None)
            for first in range(0, part.shape[axis], step):
                size = min(step, part.shape[axis] - first)
                rows = _cut(part, self.layer, first, size=size, axis=axis)
                ours = np.asarray(rows).astype(self.dtype, copy=False)
                yield np.ascontiguousarray(ours.T if self.turned else ours)


def outgoing(
    params: Params, policy: Policy, layout: str, dtypes: Mapping[str, np.dtype]
) -> Iterator[Outgoing]:
    """Yield every stored tensor of `params` in `layout`; `dtypes` is the stored dtype by weight."""
    # A key without `part` collects the weights that one tensor joins, in the order of the table.
    joined: dict[Key, list[str]] = {}
    for ours, key in table(policy.arch).items():
        joined.setdefault(Key(key.name, key.move), []).append(ours)
    for key, names in joined.items():
        first = params[names[0]]
        stacked = names[0].startswith(STACKED)
        joined_key = Key(key.name, key.move, (0, len(names)))
        shape = stored_shape(joined_key, first.shape[int(stacked) :], policy.arch)
        for layer in range(first.shape[0]) if stacked else [None]:
            yield Outgoing(
                name=stored_name(key, layout, layer),
                parts=tuple(params[name] for name in names),
                layer=layer,
                turned=key.move != "same",
                shape=shape,
                dtype=dtypes[names[0]],
            )


def write_shards(directory: Path, tensors: Sequence[Outgoing]) -> None:
    """Write shards of at most SHARD_BYTES.

    A single shard is named model.safetensors; several are numbered and get an index.
    """
    shards = _pack(tensors)
    console = Console(stderr=True)
    for file, shard in shards.items():
        progress = track(
            shard,
            description=file,
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        _write_shard(directory / file, shard, progress)
    if len(shards) > 1:
        weight_map = {tensor.name: file for file, shard in shards.items() for tensor in shard}
        index = {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors)},
            "weight_map": dict(sorted(weight_map.items())),
        }
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _pack(tensors: Sequence[Outgoing]) -> dict[str, list[Outgoing]]:
    """Distribute the tensors, in order, over shards of at most SHARD_BYTES, by file name."""
    shards: list[list[Outgoing]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(other.nbytes for other in shards[-1]) + tensor.nbytes > SHARD_BYTES:
            shards.append([])
        shards[-1].append(tensor)
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    return {
        f"model-{number:05d}-of-{len(shards):05d}.safetensors": shard
        for number, shard in enumerate(shards, start=1)
    }


def _write_shard(file: Path, shard: Sequence[Outgoing], progress: Iterator[Outgoing]) -> None:
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    start = 0
    for tensor in shard:
        header[tensor.name] = {
            "dtype": codes[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": [start, start + tensor.nbytes],
        }
        start += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in progress:
            for piece in tensor.pieces():
                stream.write(piece.view(np.uint8).data)


@functools.partial(jax.jit, static_argnames=("size", "axis"))
def _cut(
    weight: jax.Array, layer: ArrayLike | None, first: ArrayLike, *, size: int, axis: int
) -> jax.Array:
    """Return `size` entries of `axis` from `first`, of one layer where the weight is stacked."""
    cut = jax.lax.dynamic_slice_in_dim(weight, first, size, axis)
    return cut if layer is None else jax.lax.dynamic_index_in_dim(cut, layer, 0, keepdims=False)

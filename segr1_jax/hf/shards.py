"""Weights from the devices into safetensors shards, a few rows at a time: the host never holds a whole tensor.

The safetensors package writes only what is in memory, so the container is written here (tensors.py reads it): 8 bytes little-endian
header length, a JSON header, the tensors' bytes in the header's order.
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
    """A tensor to store: the weights of ours that make it up, in order, and which layer of them where they are stacked."""

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
        """Its values in the stored order, cast, at most PIECE_BYTES at a time (but whole rows)."""
        step = max(1, PIECE_BYTES * self.shape[0] // self.nbytes)
        for part in self.parts:
            axis = part.ndim - 1 if self.turned else int(self.layer is not None)
            for first in range(0, part.shape[axis], step):
                size = min(step, part.shape[axis] - first)
                ours = np.asarray(_cut(part, self.layer, first, size=size, axis=axis)).astype(
                    self.dtype, copy=False
                )
                yield np.ascontiguousarray(ours.T if self.turned else ours)


def outgoing(
    params: Params, policy: Policy, layout: str, dtypes: Mapping[str, np.dtype]
) -> Iterator[Outgoing]:
    """Every stored tensor of `params` in `layout`; `dtypes` holds the dtype to store each weight in."""
    joined: dict[Key, list[str]] = {}
    for ours, key in table(policy.arch).items():
        joined.setdefault(Key(key.name, key.move), []).append(
            ours
        )  # without `part`: the parts of one tensor, in order
    for key, names in joined.items():
        first = params[names[0]]
        stacked = names[0].startswith(STACKED)
        shape = stored_shape(
            Key(key.name, key.move, (0, len(names))), first.shape[int(stacked) :], policy.arch
        )
        for layer in range(first.shape[0]) if stacked else [None]:
            name = stored_name(key, layout, layer)
            yield Outgoing(
                name,
                tuple(params[each] for each in names),
                layer,
                key.move != "same",
                shape,
                dtypes[names[0]],
            )


def write_shards(directory: Path, tensors: Sequence[Outgoing]) -> None:
    """Fill shards up to SHARD_BYTES; one shard is named model.safetensors, several get an index."""
    shards: list[list[Outgoing]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(each.nbytes for each in shards[-1]) + tensor.nbytes > SHARD_BYTES:
            shards.append([])
        shards[-1].append(tensor)
    single = len(shards) == 1
    files = (
        [SINGLE]
        if single
        else [
            f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
            for number in range(len(shards))
        ]
    )
    console = Console(stderr=True)
    for file, shard in zip(files, shards, strict=True):
        _write_shard(
            directory / file,
            shard,
            track(
                shard,
                description=file,
                console=console,
                transient=True,
                disable=not console.is_terminal,
            ),
        )
    if not single:
        weight_map = {
            tensor.name: file for file, shard in zip(files, shards, strict=True) for tensor in shard
        }
        index = {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors)},
            "weight_map": dict(sorted(weight_map.items())),
        }
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")


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
    """`size` entries of `axis` from `first`, of one layer of a stacked weight."""
    cut = jax.lax.dynamic_slice_in_dim(weight, first, size, axis)
    return cut if layer is None else jax.lax.dynamic_index_in_dim(cut, layer, 0, keepdims=False)

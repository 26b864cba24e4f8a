"""Loading of a Hugging Face directory into (sharded) device arrays, strictly and slice by slice.

Each process reads only the slices of its devices. A slice is sent to its device in pieces, which
are written into place there, so the host holds only a few pieces at a time. All wrong tensors are
reported at once.
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import Sharding
from jax.typing import ArrayLike, DTypeLike
from rich.console import Console
from rich.progress import track

from segr1_jax.common.json_fields import read_object
from segr1_jax.errors import UserError
from segr1_jax.hf.keys import (
    HEAD_NAME,
    Key,
    detect_layout,
    stored_name,
    stored_shape,
    table,
    to_ours,
)
from segr1_jax.hf.safetensors_file import StoredTensor, open_checkpoint
from segr1_jax.policy.params import STACKED, Params, Policy, WeightSpec
from segr1_jax.policy.qwen2_5_vl.arch import PolicyArch, arch_from_config

PIECE_BYTES = 256 * 2**20
Slices = tuple[slice, ...]


def read_arch(directory: Path) -> PolicyArch:
    """Read the architecture in `directory/config.json`."""
    file = Path(directory) / "config.json"
    if not file.is_file():
        raise UserError(
            str(file),
            expected="a Hugging Face model directory with config.json",
            got="no such file",
            remedy="set policy.path to one",
        )
    return read_arch_file(file)


def read_arch_file(file: Path) -> PolicyArch:
    """Read the architecture in a file with the content of a config.json."""
    config = read_object(file, remedy="correct the path, or copy or download the file again")
    return arch_from_config(config, str(file))


def load_params(
    directory: Path,
    policy: Policy,
    shardings: Mapping[str, Sharding],
    dtype: DTypeLike | None = np.float32,
) -> Params:
    """Read the weights that `shardings` names from `directory`, and place them accordingly.

    They are converted to `dtype`; with None each keeps the dtype that it is stored in.

    Raises:
        UserError: lists every tensor that is missing, unexpected or of another shape, among all
            weights of the policy.
    """
    all_weights = _open_weights(directory, policy)
    weights = {name: all_weights[name] for name in shardings}
    console = Console(stderr=True)
    progress = track(
        weights.items(),
        f"load {Path(directory).name}",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    return {
        name: _place(weight, shardings[name], dtype or weight.dtype) for name, weight in progress
    }


def stored_dtypes(directory: Path, policy: Policy) -> dict[str, np.dtype]:
    """Return the dtype in which a Hugging Face directory stores each of our weights.

    Raises UserError as load_params does.
    """
    return {name: weight.dtype for name, weight in _open_weights(directory, policy).items()}


def stored_layout(directory: Path) -> str:
    """Return the layout of the tensor names in a Hugging Face directory (keys.LAYOUTS).

    Raises UserError if the names are not those of a Qwen2.5-VL.
    """
    stored = open_checkpoint(Path(directory))
    layout = detect_layout(stored)
    if layout is None:
        names = f"names like {sorted(stored)[:2]}"
        raise UserError(
            str(directory),
            expected="Qwen2.5-VL tensor names",
            got=names,
            remedy="start from a Qwen2.5-VL checkpoint",
        )
    return layout


def _open_weights(directory: Path, policy: Policy) -> dict[str, "_Weight"]:
    layout = stored_layout(directory)
    stored = open_checkpoint(Path(directory))
    check_names(stored, policy, layout, str(directory))
    return {
        name: _Weight(name, spec, table(policy.arch)[name], layout, stored)
        for name, spec in policy.specs.items()
    }


class _Weight:
    """One of our weights in a checkpoint. Creating it reads no values.

    A row is an entry of the weight's first axis: a layer, where the weight is stacked.
    """

    def __init__(
        self, name: str, spec: WeightSpec, key: Key, layout: str, stored: Mapping[str, StoredTensor]
    ):
        self.shape = spec.shape
        self._key = key
        self._name = name
        self._layers = self._whole = None
        if name.startswith(STACKED):
            layers = range(spec.shape[0])
            self._layers = [stored[stored_name(key, layout, layer)] for layer in layers]
        else:
            self._whole = stored[stored_name(key, layout)]
        dtypes = {tensor.dtype for tensor in self._layers or [self._whole]}
        self.dtype = max(dtypes, key=lambda dtype: dtype.itemsize)

    def pieces(self, index: Slices, dtype: DTypeLike) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, rows) of the slice `index`.

        A piece has at most PIECE_BYTES, unless a single row is larger.
        """
        start, stop, _ = index[0].indices(self.shape[0])
        row_values = int(np.prod(_slice_shape(index[1:], self.shape[1:])))
        row_bytes = np.dtype(dtype).itemsize * row_values
        step = max(1, PIECE_BYTES // max(1, row_bytes))
        for first in range(start, stop, step):
            rows = slice(first, min(first + step, stop))
            yield first - start, self._finite(self._read((rows, *index[1:]), dtype))

    def _finite(self, rows: np.ndarray) -> np.ndarray:
        if not _all_finite(rows):
            files = sorted({str(tensor.file) for tensor in self._layers or [self._whole]})
            raise UserError(
                ", ".join(files),
                expected="finite weights",
                got=f"values in {self._name} that are not finite",
                remedy="copy or download the file again, or use an earlier checkpoint",
            )
        return rows

    def _read(self, index: Slices, dtype: DTypeLike) -> np.ndarray:
        if self._whole is not None:
            return np.array(to_ours(self._whole.view(), self._key)[index], dtype, order="C")
        layers = [to_ours(layer.view(), self._key)[index[1:]] for layer in self._layers[index[0]]]
        out = np.empty((len(layers), *layers[0].shape), dtype)
        for row, layer in enumerate(layers):
            out[row] = layer
        return out


def _all_finite(values: np.ndarray) -> bool:
    if values.dtype != ml_dtypes.bfloat16:
        return bool(np.isfinite(values).all())
    # ml_dtypes converts value by value; NaN and infinity are the values with all exponent bits set.
    exponent = np.uint16(0x7F80)
    return not ((values.view(np.uint16) & exponent) == exponent).any()


def _place(weight: _Weight, sharding: Sharding, dtype: DTypeLike) -> jax.Array:
    """Return the global array, made of one array per device of this process."""
    slices = sharding.addressable_devices_indices_map(weight.shape)
    shards = [_fill(weight, index, device, dtype) for device, index in slices.items()]
    return jax.make_array_from_single_device_arrays(weight.shape, sharding, shards)


def _fill(weight: _Weight, index: Slices, device: jax.Device, dtype: DTypeLike) -> jax.Array:
    """Return the slice `index` of the weight on `device`, filled there piece by piece."""
    shape = _slice_shape(index, weight.shape)
    filled = None
    for first, rows in weight.pieces(index, dtype):
        piece = jax.device_put(rows, device)
        if rows.shape == shape:
            return piece
        if filled is None:
            filled = _empty(shape, np.dtype(dtype), device)
        # Without the wait the pieces would queue up in host memory.
        filled = _write_rows(filled, piece, first).block_until_ready()
    return filled


def _slice_shape(index: Slices, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(len(range(*part.indices(size))) for part, size in zip(index, shape, strict=True))


def _empty(shape: tuple[int, ...], dtype: np.dtype, device: jax.Device) -> jax.Array:
    sharding = jax.sharding.SingleDeviceSharding(device)
    return jax.jit(lambda: jnp.empty(shape, dtype), out_shardings=sharding)()


@functools.partial(jax.jit, donate_argnums=0)
def _write_rows(filled: jax.Array, rows: jax.Array, first: ArrayLike) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(filled, rows, first, axis=0)


def expected_tensors(policy: Policy, layout: str) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor that a checkpoint of this policy holds."""
    expected = {}
    for name, spec in policy.specs.items():
        key = table(policy.arch)[name]
        if name.startswith(STACKED):
            shape = stored_shape(key, spec.shape[1:], policy.arch)
            for layer in range(spec.shape[0]):
                expected[stored_name(key, layout, layer)] = shape
        else:
            expected[stored_name(key, layout)] = stored_shape(key, spec.shape, policy.arch)
    return expected


def check_names(stored: dict[str, StoredTensor], policy: Policy, layout: str, where: str) -> None:
    """Check that the stored tensors are those of the policy.

    Raises one UserError that lists every tensor that is missing, unexpected or of another shape. A
    redundant tied head must equal the embedding.
    """
    expected = expected_tensors(policy, layout)
    present = dict(stored)
    if policy.arch.text.tied_head and HEAD_NAME in present:
        head = present.pop(HEAD_NAME)
        embed = stored[stored_name(table(policy.arch)["embed"], layout)]
        if head.shape != embed.shape or not np.array_equal(head.view(), embed.view()):
            raise UserError(
                f"{where}: {HEAD_NAME}",
                expected="no head, or one equal to the embedding (tie_word_embeddings is true)",
                got="a different head",
                remedy="set tie_word_embeddings to false in config.json",
            )
    problems = [
        f"missing {name} {shape}" for name, shape in expected.items() if name not in present
    ]
    problems += [
        f"unexpected {name} {tensor.shape}"
        for name, tensor in present.items()
        if name not in expected
    ]
    problems += [
        f"{name} is {present[name].shape}, not {shape}"
        for name, shape in expected.items()
        if name in present and present[name].shape != shape
    ]
    if problems:
        more = f"; and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise UserError(
            where,
            expected=f"exactly the {len(expected)} tensors config.json implies",
            got="; ".join(problems[:20]) + more,
            remedy="use the checkpoint that belongs to this config.json",
        )

"""Whose predictions these are: what the bytes of an answer depend on, without times, hosts or paths."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped, UInt32

from segr1_jax import __version__
from segr1_jax.data.config import DataConfig
from segr1_jax.policy.params import Params
from segr1_jax.train.config import RunConfig

DIGITS = 16
PATHS = ("root", "images", "masks", "ids", "manifest")  # where a set lies is not what it is


def identity(
    config: RunConfig, weights: Params, data: DataConfig, names: Sequence[str]
) -> dict[str, Any]:
    """Version, weights, prompt, answer length, batch, compute dtype, SAM2, and the set with the names of its samples."""
    reward = config.reward
    return {
        "segr1_jax": __version__,
        "weights": weights_digest(weights),
        "prompt": dataclasses.asdict(config.prompt),
        "max_tokens": config.answer_tokens,
        "batch": config.eval_batch,
        "compute_dtype": config.policy.compute_dtype,
        "sam2": {
            "weights": _file_digest(reward.sam2_checkpoint),
            "config": Path(reward.sam2_config).name or "nano",
            "dtype": reward.dtype,
        },
        "postprocessing": reward.postprocessing,
        "max_side": reward.max_side,
        "data": {
            name: value for name, value in dataclasses.asdict(data).items() if name not in PATHS
        },
        "names": _text_digest("\n".join(names)),
    }


def weights_digest(weights: Params) -> str:
    """A hash of every weight's bits, the same on any mesh: sums of bits times position, modulo 2^32, which no order of adding changes."""
    sums = jax.device_get(jax.jit(lambda tree: jax.tree.map(_bit_sum, tree))(weights))
    text = "".join(
        f"{name} {weights[name].dtype} {weights[name].shape} {int(sums[name])}\n"
        for name in sorted(sums)
    )
    return hashlib.blake2b(text.encode()).hexdigest()[:DIGITS]


def _bit_sum(x: Shaped[Array, "..."]) -> UInt32[Array, ""]:
    width = jnp.dtype(x.dtype).itemsize * 8
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{width}")).astype(jnp.uint32)
    index = sum(
        jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride)
        for axis, stride in enumerate(_odd_strides(bits.ndim))
    )
    return jnp.sum((bits + 1) * (2 * index + 1), dtype=jnp.uint32)


def _odd_strides(axes: int) -> list[int]:
    return [
        pow(2654435761, axis + 1, 2**32) for axis in range(axes)
    ]  # Knuth's multiplier: neighbours get far-apart factors


def _text_digest(text: str) -> str:
    """A hash of any text, also with half a surrogate pair (names of files have some)."""
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace")).hexdigest()[:DIGITS]


def _file_digest(path: str) -> str:
    if not path:
        return "nano"
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:DIGITS]

"""Identity of predictions: everything that an answer depends on, without times, hosts or paths.

The part that depends on a sample alone is in the line of its answer (data/sample_digests.py).
"""

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
from segr1_jax.data.sample_digests import file_digest, text_digest
from segr1_jax.infer.load_policy import Opened
from segr1_jax.policy.params import Params
from segr1_jax.prompt.config import PromptConfig

DIGITS = 16
# Paths of a set are not part of its identity.
PATHS = ("root", "images", "masks", "ids", "manifest", "path")


def identity(opened: Opened, data: DataConfig, names: Sequence[str]) -> dict[str, Any]:
    """Return the identity of the predictions of a policy on a set.

    It has version, policy, prompt, answer length, batch, compute dtype, SAM2, and the set with the
    names of its samples.
    """
    config = opened.engine.config
    reward = config.reward
    return {
        "segr1_jax": __version__,
        "weights": weights_digest(opened.params),
        "policy": _policy_digest(opened),
        "platform": jax.default_backend(),
        "prompt": _prompt(opened),
        "max_tokens": config.answer_tokens,
        "batch": config.eval_batch,
        "compute_dtype": config.policy.compute_dtype,
        "sam2": {
            "weights": _weights_of_sam2(reward.sam2_checkpoint),
            "config": _sam2_config(reward.sam2_config),
            "dtype": reward.dtype,
            "devices": sorted(
                {name.strip().partition(":")[0] for name in reward.device.split(",")}
            ),
            "decode_batch": reward.decode_batch,
        },
        "postprocessing": reward.postprocessing,
        "max_side": reward.max_side,
        "data": {
            name: value for name, value in dataclasses.asdict(data).items() if name not in PATHS
        },
        "names": text_digest("\n".join(names)),
    }


def _prompt(opened: Opened) -> dict[str, Any]:
    """Return the settings of prompts, with their texts unless they are our own."""
    engine = opened.engine
    texts = engine.builder.config.texts
    return prompt_identity(engine.config.prompt) | ({"texts": texts} if texts else {})


def prompt_identity(prompt: PromptConfig) -> dict[str, Any]:
    """Return the settings of prompts without their texts."""
    return {name: value for name, value in dataclasses.asdict(prompt).items() if name != "texts"}


def weights_digest(weights: Params) -> str:
    """Return a hash of the bits of every weight, the same on any mesh.

    It combines sums of bits * position modulo 2^32, which do not depend on the order of summation.
    """
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
    # Knuth's multiplier: neighbors get distant factors.
    return [pow(2654435761, axis + 1, 2**32) for axis in range(axes)]


def _policy_digest(opened: Opened) -> str:
    """Return a hash of what is not in the weights: sizes, tokenizer, normalization, end tokens."""
    engine, tokenizer = opened.engine, Path(opened.start.base) / "tokenizer.json"
    ends = engine.builder.tokenizer.end_ids
    parts = engine.policy.arch, file_digest(tokenizer), engine.builder.vision, ends
    return text_digest(repr(parts))


def _sam2_config(config: str) -> str:
    """Return a hash of a file, or the name of a configuration inside the sam2 package."""
    if not config:
        return "nano"
    return file_digest(Path(config)) if Path(config).is_file() else Path(config).name


def _weights_of_sam2(path: str) -> str:
    return file_digest(Path(path)) if path else "nano"

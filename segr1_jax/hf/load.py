"""A Hugging Face directory into (sharded) device arrays: strict, slice by slice.

Each process reads only the slices its devices hold; stacked layers are filled in place. Everything wrong is reported at once.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Sharding

from segr1_jax.errors import UserError
from segr1_jax.hf.keys import HEAD_NAME, Key, detect_layout, stored_name, stored_shape, table, to_ours
from segr1_jax.hf.tensors import StoredTensor, open_checkpoint
from segr1_jax.policy.arch import PolicyArch, arch_from_config
from segr1_jax.policy.params import STACKED, Params, Policy, WeightSpec


def read_arch(directory: Path) -> PolicyArch:
    """The architecture in `directory/config.json`."""
    file = Path(directory) / "config.json"
    if not file.is_file():
        raise UserError(
            str(file), expected="a Hugging Face model directory with config.json", got="no such file", remedy="set policy.path to one"
        )
    try:
        config = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise UserError(str(file), expected="valid JSON", got=str(error), remedy="download the file again") from None
    return arch_from_config(config, str(file))


def load_params(directory: Path, policy: Policy, shardings: Mapping[str, Sharding], dtype=np.float32) -> Params:
    """Read every weight of `policy` from `directory`, placed as `shardings` says, converted to `dtype`.

    Raises:
        UserError: listing every missing, unexpected and misshapen tensor.
    """
    directory = Path(directory)
    stored = open_checkpoint(directory)
    layout = detect_layout(stored)
    if layout is None:
        raise UserError(
            str(directory),
            expected="Qwen2.5-VL tensor names",
            got=f"names like {sorted(stored)[:2]}",
            remedy="start from a Qwen2.5-VL checkpoint",
        )
    check_names(stored, policy, layout, str(directory))

    def read(name: str, spec: WeightSpec) -> jax.Array:
        key = table(policy.arch)[name]
        return jax.make_array_from_callback(
            spec.shape, shardings[name], lambda index: _read_slice(stored, key, layout, name, spec, index, dtype)
        )

    return {name: read(name, spec) for name, spec in policy.specs.items()}


def _read_slice(stored: dict[str, StoredTensor], key: Key, layout: str, name: str, spec: WeightSpec, index, dtype) -> np.ndarray:
    if not name.startswith(STACKED):
        return np.array(to_ours(stored[stored_name(key, layout)].view(), key)[index], dtype)
    layers = range(*index[0].indices(spec.shape[0]))
    first = to_ours(stored[stored_name(key, layout, layers[0])].view(), key)[index[1:]]
    out = np.empty((len(layers), *first.shape), dtype)
    for row, layer in enumerate(layers):
        out[row] = to_ours(stored[stored_name(key, layout, layer)].view(), key)[index[1:]]
    return out


def expected_tensors(policy: Policy, layout: str) -> dict[str, tuple[int, ...]]:
    """Every tensor name a checkpoint of this architecture holds in this layout, with its shape."""
    expected = {}
    for name, spec in policy.specs.items():
        key = table(policy.arch)[name]
        if name.startswith(STACKED):
            for layer in range(spec.shape[0]):
                expected[stored_name(key, layout, layer)] = stored_shape(key, spec.shape[1:], policy.arch)
        else:
            expected[stored_name(key, layout)] = stored_shape(key, spec.shape, policy.arch)
    return expected


def check_names(stored: dict[str, StoredTensor], policy: Policy, layout: str, where: str) -> None:
    """Raise one UserError that lists everything missing, unexpected and misshapen. A redundant tied head must equal the embedding."""
    expected = expected_tensors(policy, layout)
    present = dict(stored)
    if policy.arch.text.tied_head and HEAD_NAME in present:
        head, embed = present.pop(HEAD_NAME), stored[stored_name(table(policy.arch)["embed"], layout)]
        if head.shape != embed.shape or not np.array_equal(head.view(), embed.view()):
            raise UserError(
                f"{where}: {HEAD_NAME}",
                expected="no head, or one equal to the embedding (tie_word_embeddings is true)",
                got="a different head",
                remedy="set tie_word_embeddings to false in config.json",
            )
    problems = [f"missing {name} {shape}" for name, shape in expected.items() if name not in present]
    problems += [f"unexpected {name} {tensor.shape}" for name, tensor in present.items() if name not in expected]
    problems += [
        f"{name} is {present[name].shape}, not {shape}"
        for name, shape in expected.items()
        if name in present and present[name].shape != shape
    ]
    if problems:
        shown = "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise UserError(
            where,
            expected=f"exactly the {len(expected)} tensors config.json implies",
            got=shown,
            remedy="use the checkpoint that belongs to this config.json",
        )

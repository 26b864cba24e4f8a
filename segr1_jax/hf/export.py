"""Weights back into a Hugging Face directory: safetensors shards with index, the base's own configuration, tokenizer and processor."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from segr1_jax.errors import UserError
from segr1_jax.hf.keys import stored_name, table, to_stored
from segr1_jax.hf.tensors import DTYPES, INDEX, SINGLE
from segr1_jax.policy.params import STACKED, Params, Policy

SHARD_BYTES = 5 * 10**9
WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json", ".bin", ".pt")
CARD = "README.md"  # never the base's: it speaks of another model


def export_policy(
    params: Params, policy: Policy, base: Path, out: Path, texts: Mapping[str, str], *, dtype: str = "F32", layout: str = "published"
) -> Path:
    """Write `params` as a directory that transformers and vLLM load; `texts` are files by name; all else but the weights is copied
    from `base`.

    The directory appears whole, by one rename. `dtype` is F32 or BF16; `layout` names the tensors as hf/keys.py lists.

    Raises:
        UserError: `out` exists.
    """
    if out.exists():
        raise UserError(
            str(out), expected="a path that does not exist yet", got="an existing one", remedy="choose another --out or delete it"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        for file in sorted(base.iterdir()):
            if file.is_file() and not file.name.endswith(WEIGHT_SUFFIXES) and file.name not in (CARD, *texts):
                shutil.copyfile(file, partial / file.name)
        _write_shards(partial, _stored_tensors(params, policy, layout, DTYPES[dtype]))
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
        partial.chmod(0o755)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial)
        raise
    return out


def _stored_tensors(params: Params, policy: Policy, layout: str, dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) in the stored orientation, one at a time; the parts of a joined tensor come together."""
    joined: dict[tuple[str, int | None], list[np.ndarray]] = {}
    for name, key in table(policy.arch).items():
        weight = params[name]
        layers = range(weight.shape[0]) if name.startswith(STACKED) else [None]
        for layer in layers:
            ours = np.asarray(jax.device_get(weight if layer is None else weight[layer]))
            parts = joined.setdefault((key.name, layer), [])
            parts.append(ours)
            if len(parts) == key.part[1]:
                stored = to_stored(joined.pop((key.name, layer)), key, policy.arch)
                yield stored_name(key, layout, layer), stored.astype(dtype)


def _write_shards(directory: Path, tensors: Iterator[tuple[str, np.ndarray]]) -> None:
    """Fill shards up to SHARD_BYTES; one shard is named model.safetensors, several get an index."""
    shards: list[list[str]] = []
    pending: dict[str, np.ndarray] = {}
    size = total = 0

    def flush() -> None:
        save_file(pending, directory / f"shard-{len(shards):05d}", {"format": "pt"})
        shards.append(list(pending))
        pending.clear()

    for name, array in tensors:
        if pending and size + array.nbytes > SHARD_BYTES:
            flush()
            size = 0
        pending[name] = array
        size, total = size + array.nbytes, total + array.nbytes
    flush()
    if len(shards) == 1:
        (directory / "shard-00000").rename(directory / SINGLE)
        return
    weight_map = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (directory / f"shard-{number:05d}").rename(directory / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")

"""Weights back into a Hugging Face directory: safetensors, the base's own configuration, tokenizer and processor."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from segr1_jax.common.files import new_directory
from segr1_jax.hf.load_weights import stored_dtypes, stored_layout
from segr1_jax.hf.safetensors_file import DTYPES
from segr1_jax.hf.shards import outgoing, write_shards
from segr1_jax.policy.params import Params, Policy

WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json", ".bin", ".pt")
CARD = "README.md"  # never the base's: it speaks of another model


def export_policy(
    params: Params,
    policy: Policy,
    base: Path,
    out: Path,
    texts: Mapping[str, str],
    *,
    dtype: str | None = None,
    layout: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write `params` as a directory that transformers and vLLM load; `texts` are files by name; all else but the weights is copied
    from `base`.

    The directory appears whole, by one rename. `dtype` is F32 or BF16 for all tensors, `layout` names them as hf/keys.py lists; None
    for either is what `base` has, tensor by tensor.

    Raises:
        UserError: `out` exists, and `overwrite` is not set or it holds something else than a Hugging Face directory.
    """
    dtypes = dict.fromkeys(params, DTYPES[dtype]) if dtype else stored_dtypes(base, policy)
    with new_directory(out, replace="config.json" if overwrite else None) as partial:
        for file in sorted(base.iterdir()):
            if (
                file.is_file()
                and not file.name.endswith(WEIGHT_SUFFIXES)
                and file.name not in (CARD, *texts)
            ):
                shutil.copyfile(file, partial / file.name)
        write_shards(partial, list(outgoing(params, policy, layout or stored_layout(base), dtypes)))
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
    return out

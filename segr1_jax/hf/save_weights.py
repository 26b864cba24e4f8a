"""Export of weights to a Hugging Face directory, with the configuration files of its base."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from segr1_jax.common.files import new_directory
from segr1_jax.hf.load_weights import stored_dtypes, stored_layout
from segr1_jax.hf.safetensors_file import DTYPES
from segr1_jax.hf.shards import outgoing, write_shards
from segr1_jax.policy.params import Params, Policy

WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json", ".bin", ".pt")
CARD = "README.md"  # not copied from the base, because it describes another model


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
    """Write `params` as a directory that transformers and vLLM load.

    All files of `base` except its weights are copied; `texts` are further files by name. The
    directory is renamed into place when it is complete.

    Args:
        dtype: F32 or BF16 for all tensors; None keeps the dtype of each tensor in `base`.
        layout: names of the tensors, one of hf.keys.LAYOUTS; None keeps the layout of `base`.

    Raises:
        UserError: `out` exists, and `overwrite` is not set or `out` is not a Hugging Face
            directory.
    """
    dtypes = dict.fromkeys(params, DTYPES[dtype]) if dtype else stored_dtypes(base, policy)
    with new_directory(out, replace="config.json" if overwrite else None) as partial:
        for file in sorted(base.iterdir()):
            is_replaced = file.name in (CARD, *texts) or file.name.endswith(WEIGHT_SUFFIXES)
            if file.is_file() and not is_replaced:
                shutil.copyfile(file, partial / file.name)
        write_shards(partial, list(outgoing(params, policy, layout or stored_layout(base), dtypes)))
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
    return out

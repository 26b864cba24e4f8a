"""Export of adapters to a directory that peft loads on top of the base checkpoint.

peft names a linear map by its module path in transformers >= 4.52 (the nested layout), and stores A
as [rank, in] and B as [out, rank].
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from segr1_jax.common.files import new_directory
from segr1_jax.hf.keys import TABLE, stored_name
from segr1_jax.policy.config import LoraConfig
from segr1_jax.policy.params import ADAPTER, Params

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
HALVES = dict(zip(ADAPTER, ("lora_A.weight", "lora_B.weight"), strict=True))


def export_adapter(
    adapters: Params,
    lora: LoraConfig,
    base_name: str,
    out: Path,
    texts: Mapping[str, str],
    *,
    overwrite: bool = False,
) -> Path:
    """Write stacked adapters ("layers.attention.q.lora_a": [L, in, rank], ...) for peft.

    `base_name` is the base checkpoint, a name or ORG/NAME@COMMIT on the Hub. `texts` are further
    files by name. The directory is renamed into place when it is complete. Raises UserError as
    files.new_directory does.
    """
    tensors = {}
    targets = set()
    for name, stacked in adapters.items():
        half = next(half for half in ADAPTER if name.endswith(half))
        key = TABLE[name.removesuffix(half) + ".kernel"]
        targets.add(key.name.split(".")[-2])
        for layer, ours in enumerate(np.asarray(stacked)):
            module = stored_name(key, "nested", layer).removesuffix(".weight")
            tensors[f"{PREFIX}{module}.{HALVES[half]}"] = np.ascontiguousarray(ours.T)
    with new_directory(out, replace=CONFIG if overwrite else None) as partial:
        save_file(tensors, partial / WEIGHTS, {"format": "pt"})
        (partial / CONFIG).write_text(
            json.dumps(_config(lora, base_name, sorted(targets)), indent=2) + "\n"
        )
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
    return out


def _config(lora: LoraConfig, base_name: str, targets: list[str]) -> dict:
    base, _, revision = base_name.partition("@")
    # The path names the language model, because the vision tower has maps of the same names.
    pattern = rf".*language_model\.layers\.\d+\..*\.({'|'.join(targets)})"
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision or None,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": pattern,
    }

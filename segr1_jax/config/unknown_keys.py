"""The error for an unknown key, which names the most likely key."""

import difflib
from collections.abc import Mapping, Sequence

from segr1_jax.errors import UserError

# Our key for each name that transformers, TRL and reference codes use, by its last part.
FOREIGN = {
    "lr": "optimizer.learning_rate",
    "warmup_ratio": "optimizer.warmup_steps",
    "lr_scheduler_type": "optimizer.schedule",
    "epochs": "steps",
    "num_epochs": "steps",
    "num_train_epochs": "steps",
    "max_steps": "steps",
    "output_dir": "run_dir",
    "save_steps": "save_every",
    "eval_steps": "eval_every",
    "logging_steps": "log_every",
    "batch_size": "batch",
    "train_batch_size": "batch",
    "per_device_train_batch_size": "batch",
    "gradient_accumulation_steps": "micro_batches",
    "gradient_checkpointing": "policy.remat",
    "model_name_or_path": "policy.path",
    "num_generations": "rollout.group",
    "max_completion_length": "rollout.max_tokens",
    "max_new_tokens": "rollout.max_tokens",
}


def unknown_key(
    source: str, key: str, siblings: Sequence[str], docs: Mapping[str, str]
) -> UserError:
    """Return the error for `key`, read from `source`.

    Args:
        source: the file, or the command line.
        key: the unknown key.
        siblings: keys of the section that contains it.
        docs: documentation of every key of the configuration.
    """
    meant = _meant(key, siblings, list(docs))
    doc = f" ({docs[meant]})" if key.rpartition(".")[2] in FOREIGN and meant in docs else ""
    return UserError(
        source,
        expected="a known key",
        got=repr(key),
        remedy=f"{f'did you mean {meant}{doc}? ' if meant else ''}`segr1 config` lists every key",
    )


def _meant(key: str, siblings: Sequence[str], everywhere: Sequence[str]) -> str:
    section, dot, name = key.rpartition(".")
    if name in FOREIGN:
        return FOREIGN[name]
    if near := difflib.get_close_matches(name, siblings, n=1):
        return f"{section}{dot}{near[0]}"
    same_name = [full for full in everywhere if full.rpartition(".")[2] == name]
    near = same_name or difflib.get_close_matches(key, everywhere, n=1, cutoff=0.4)
    return near[0] if near else ""

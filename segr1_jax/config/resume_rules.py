"""Rules for changes of the configuration when a run resumes.

A field is in one of three groups: it does not change the results of training, it changes their
rounding only (another order of sums), or it changes what is computed. A change of a field in the
last group is refused.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segr1_jax.config.loading import flatten
from segr1_jax.config.portable import portable
from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError

# Fields of where a run computes, of what it writes and of how often it is evaluated.
NOTHING = (
    *("run_dir", "keep", "keep_best", "save_every", "log_every", "checkpoint_dir", "profile"),
    *(
        "checkpoint_check",
        "compile_cache",
        "eval_every",
        "eval_limit",
        "eval_max_tokens",
        "eval_first",
        "hardware",
        "policy.arch",
        # The commits are in policy.path, data.path and reward.sam2 too, see portable.py.
        "commits",
    ),
    *("loader", "log"),
    *(f"reward.{name}" for name in ("python", "sidecars", "gpu_memory", "queue", "cache_dir")),
    *(f"reward.{name}" for name in ("cache_mb", "host_cache_mb", "cache_dir_gb")),
    *(f"reward.{when}_timeout_s" for when in ("start", "request", "heartbeat", "term")),
)
# Fields of how the same sums are split into parts and of which kernels compute them.
ROUNDINGS = (
    *("mesh", "micro_batches", "eval_batch", "deterministic", "rollout.weights"),
    "optimizer.moments",
    *("policy.remat", "policy.head_chunk", "policy.attention"),
    *("reward.device", "reward.threads", "reward.decode_batch"),
)

# Keys that the first runs did not have. At their defaults they do not enter the hash, so that the
# hashes of these runs stay.
LATER = (
    *("reward.terms", "reward.sam2", "optimizer.first_moment"),
    *(
        f"{section}.{name}"
        for section in ("data", "eval_data")
        for name in ("path", "subset", "image_column", "mask_column", "sentence_column")
    ),
)


def refused_changes(old: RunConfig, new: RunConfig) -> list[str]:
    """Return `key: old -> new` for each changed field that a resumed run must not change."""
    steps_are_free = new.optimizer.schedule == "constant"
    refused = _changes(
        old,
        new,
        lambda key: (
            not _within(key, NOTHING + ROUNDINGS) and not (key == "steps" and steps_are_free)
        ),
    )
    why = " (the cosine schedule ends at the last step)"
    return [text + why * text.startswith("steps: ") for text in refused]


def rounding_changes(old: RunConfig, new: RunConfig) -> list[str]:
    """Return `key: old -> new` for each changed field that ends bitwise equality."""
    return _changes(old, new, lambda key: _within(key, ROUNDINGS))


def same_run(old: RunConfig, new: RunConfig) -> bool:
    """Return True if the two configurations describe the same run."""
    return not refused_changes(old, new) and old.steps == new.steps


def check_resumable(old: RunConfig, new: RunConfig, run: Path, done: int | None) -> None:
    """Raise UserError unless a run of `old` that has done `done` steps may continue with `new`."""
    if changed := refused_changes(old, new):
        raise UserError(
            str(run),
            expected="the configuration of this run",
            got="; ".join(changed),
            remedy="choose another run_dir, or undo the change",
        )
    if done is not None and new.steps < done:
        raise UserError(
            "steps",
            expected=f"at least the {done} that {run} has done",
            got=str(new.steps),
            remedy="raise steps, or choose another run_dir",
        )


def config_hash(config: RunConfig) -> str:
    """Return a hash (16 hex digits) over every field that changes what the run computes."""
    content = json.dumps(deciding(config), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def deciding(config: RunConfig) -> dict[str, Any]:
    """Return every field that changes what the run computes, by its key."""
    defaults = flatten(RunConfig())
    return {
        key: value
        for key, value in flatten(portable(config)).items()
        if not _within(key, NOTHING + ROUNDINGS) and not (key in LATER and value == defaults[key])
    }


def _changes(old: RunConfig, new: RunConfig, counts: Callable[[str], bool]) -> list[str]:
    before, after = flatten(portable(old)), flatten(portable(new))
    # Keys of free names, such as those of own terms, may be in one of the two only.
    return [
        f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in after | before
        if counts(key) and before.get(key) != after.get(key)
    ]


def _within(key: str, groups: tuple[str, ...]) -> bool:
    return any(key == group or key.startswith(f"{group}.") for group in groups)

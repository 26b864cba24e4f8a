"""Rules that involve several fields of a configuration. They run before any device work."""

import shutil
from dataclasses import replace
from pathlib import Path

from segr1_jax.common.hub_ids import hub_id
from segr1_jax.common.optional_packages import optional_package
from segr1_jax.config.hardware import TPUS
from segr1_jax.config.log import OPTIONAL
from segr1_jax.config.schema import MeshConfig, RunConfig
from segr1_jax.data.config import DataConfig
from segr1_jax.errors import UserError
from segr1_jax.prompt.config import require_texts
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.term_entries import own_entries
from segr1_jax.reward.terms import Terms
from segr1_jax.reward.transport.gpus import placed_here

# Side of one image token of Qwen2.5-VL in pixels: patch size 14 times spatial merge size 2.
MERGED_PATCH = 28
# Sides in pixels: the reference code resizes images to LEGACY_SIDE, and Qwen2.5-VL's processor then
# resizes them to LEGACY_FRAME.
LEGACY_FRAME, LEGACY_SIDE = 756, 768


def check(config: RunConfig) -> None:
    """Raise UserError for the first broken rule: numbers first, then the files of the run."""
    check_rules(config)
    check_paths(config)


def check_rules(config: RunConfig) -> None:
    """Raise UserError for the first broken rule that does not depend on the file system."""
    if config.prompt.frame % MERGED_PATCH:
        raise _error(
            "prompt.frame",
            f"a multiple of {MERGED_PATCH}",
            config.prompt.frame,
            f"use {round(config.prompt.frame / 28) * 28}",
        )
    if config.batch % config.micro_batches:
        raise _error(
            "micro_batches",
            f"a divisor of batch = {config.batch}",
            config.micro_batches,
            "change batch or micro_batches",
        )
    if config.optimizer.warmup_steps >= config.updates:
        expected = f"fewer than the {config.updates} updates of the run"
        raise _error(
            "optimizer.warmup_steps", expected, config.optimizer.warmup_steps, "shorten the warm-up"
        )
    if config.guard.max_kl and config.stage == "grpo" and not config.objective.beta:
        raise _error(
            "guard.max_kl",
            "0 with objective.beta=0, which loads no reference policy",
            config.guard.max_kl,
            "set objective.beta, or guard.max_kl=0",
        )
    if bool(config.reward.sam2_config) != bool(config.reward.sam2_checkpoint):
        got = f"{config.reward.sam2_config!r} and {config.reward.sam2_checkpoint!r}"
        raise _error(
            "reward",
            "sam2_config and sam2_checkpoint both set or both empty",
            got,
            "set both, or neither for the nano SAM2",
        )
    if config.hardware.kind in TPUS and "cuda" in config.reward.device:
        raise _error(
            "reward.device",
            f"cpu on hosts of {config.hardware.kind}, which have no GPU",
            config.reward.device,
            "set reward.device=cpu, or hardware.kind to the accelerator of the run",
        )
    if config.stage == "sft" and config.sft.second_task:
        require_texts(config.prompt.texts, config.sft.second_task)
    if config.reward.legacy:
        _check_legacy(config)
    _check_mesh(config.mesh)
    _check_held_out(config.data, config.eval_data)


def check_paths(config: RunConfig) -> None:
    """Raise UserError unless the files, directories and packages that the run needs exist.

    Repositories on the Hub are not looked up here, but by runtime/hub_files.py.
    """
    for name in OPTIONAL:
        if name in config.log.to:
            optional_package(name, name)
    if not config.policy.path:
        raise _error(
            "policy.path",
            "a Hugging Face or run directory, or ORG/NAME on the Hub",
            "nothing",
            "set it; `segr1 tiny DIR` creates a small one",
        )
    if hub_id(config.policy.path) is None:
        _require_directory("policy.path", config.policy.path)
    _check_source("data", config.data)
    _check_source("eval_data", config.eval_data)
    check_reward_paths(config.reward)
    # Opens the files of own terms.
    Terms(config.reward)


def check_reward_paths(reward: RewardConfig) -> None:
    """Raise UserError unless the files and GPUs of the sidecar exist."""
    placed_here(reward)
    if reward.sam2_checkpoint:
        _require_file("reward.sam2_checkpoint", reward.sam2_checkpoint)
    if reward.python and shutil.which(reward.python) is None:
        raise _error(
            "reward.python",
            "a Python interpreter",
            reward.python,
            "create one with launch/setup.sh, or leave it empty",
        )


def require_fixed_frame(config: RunConfig) -> None:
    """Raise UserError if each image has its own frame (prompt.frame=0).

    Training compiles for one shape, and the model card of an export names its frame.
    """
    if not config.prompt.frame:
        raise _error(
            "prompt.frame",
            f"a multiple of {MERGED_PATCH} for training and exports",
            0,
            "set prompt.frame; 0 is for eval, predict and score",
        )


def _check_legacy(config: RunConfig) -> None:
    if own := own_entries(config.reward.terms):
        raise _error(
            "reward.terms",
            "built-in terms with reward.legacy, which rewards as the reference code does",
            own[0],
            "remove it, or set reward.legacy=false",
        )
    if config.prompt.frame != LEGACY_FRAME:
        raise _error(
            "prompt.frame",
            f"{LEGACY_FRAME} with reward.legacy",
            config.prompt.frame,
            "set it, or reward.legacy=false",
        )
    if config.reward.max_side < LEGACY_SIDE:
        expected = f"at least {LEGACY_SIDE} with reward.legacy"
        raise _error(
            "reward.max_side",
            expected,
            config.reward.max_side,
            "raise it, or set reward.legacy=false",
        )


def _check_mesh(mesh: MeshConfig) -> None:
    axes = (mesh.data, mesh.fsdp, mesh.tensor)
    if any(size < 1 and size != -1 for size in axes) or axes.count(-1) > 1:
        raise _error(
            "mesh",
            "positive axis sizes, at most one of them -1",
            f"data, fsdp, tensor = {axes}",
            "change the mesh section",
        )


def _check_held_out(train: DataConfig, held_out: DataConfig) -> None:
    if train.kind == held_out.kind == "synthetic" and train.seed == held_out.seed:
        raise _error(
            "eval_data.seed",
            "a seed other than data.seed, so that the sets are disjoint",
            held_out.seed,
            "change one of them",
        )
    if train.kind != "synthetic" and held_out == train:
        raise _error(
            "eval_data",
            "samples other than those of data",
            "the same samples",
            "set the ids or the manifest of a held-out split",
        )
    # Two parts of one set are disjoint only if both use the same share and the same seed.
    split = {name: getattr(train, name) for name in ("part", "hold_out", "hold_out_seed")}
    one_set = train.part != held_out.part and replace(held_out, **split) == train
    if one_set and replace(held_out, part=train.part) != train:
        raise _error(
            "eval_data.hold_out",
            "the hold_out and hold_out_seed of data, since other parts of one set overlap",
            f"{held_out.hold_out:g} with seed {held_out.hold_out_seed}",
            "make hold_out and hold_out_seed equal in data and eval_data",
        )
    if train.kind != "synthetic" and held_out.kind == "synthetic":
        raise _error(
            "eval_data.kind",
            "held-out samples like the training data",
            "synthetic",
            "set eval_data to a held-out split",
        )


def _check_source(section: str, data: DataConfig) -> None:
    if data.kind == "folder":
        _require_directory(f"{section}.images", data.images)
        _require_directory(f"{section}.masks", data.masks)
        if data.ids:
            _require_file(f"{section}.ids", data.ids)
    elif data.kind == "jsonl":
        _require_file(f"{section}.manifest", data.manifest)
    elif data.kind == "hub":
        if hub_id(data.path) is None and not Path(data.path or "missing").exists():
            raise _error(
                f"{section}.path",
                "a file, a folder, or ORG/NAME on the Hub",
                _state(data.path),
                "paths are relative to the working directory",
            )
    elif data.kind == "published":
        _require_directory(f"{section}.root", data.root)
        if data.ids:
            _require_file(f"{section}.ids", data.ids)


def _require_directory(field: str, path: str) -> None:
    if not path or not Path(path).is_dir():
        raise _error(
            field, "a directory", _state(path), "paths are relative to the working directory"
        )


def _require_file(field: str, path: str) -> None:
    if not path or not Path(path).is_file():
        raise _error(field, "a file", _state(path), "paths are relative to the working directory")


def _state(path: str) -> str:
    if not path:
        return "nothing"
    return f"{path} (not of that kind)" if Path(path).exists() else f"{path} (missing)"


def _error(where: str, expected: str, got: object, remedy: str) -> UserError:
    return UserError(where, expected=expected, got=str(got), remedy=remedy)

"""SAM2 models from a YAML configuration and a weights file."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import sam2
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from segr1_jax.errors import UserError

ASSETS = Path(__file__).parents[1] / "assets"
NANO_CONFIG, NANO_CHECKPOINT = ASSETS / "sam2_nano.yaml", ASSETS / "sam2_nano.safetensors"
# Overrides that sam2.build_sam.build_sam2 adds with apply_postprocessing.
STABILITY_OVERRIDES = {
    "dynamic_multimask_via_stability": True,
    "dynamic_multimask_stability_delta": 0.05,
    "dynamic_multimask_stability_thresh": 0.98,
}


def build_model(
    config: str | Path, checkpoint: str | Path | None, *, postprocessing: bool
) -> torch.nn.Module:
    """Build a SAM2Base and load its weights.

    Args:
        config: the path of a YAML file, or the name of a configuration in the sam2 package.
        checkpoint: the weights; None leaves them random.
        postprocessing: apply the overrides that `build_sam2` adds to the YAML.

    Raises:
        UserError: a file does not exist, a `_target_` is not a class of the sam2 package, or the
            weights do not fit.
    """
    tree = model_tree(config, postprocessing=postprocessing)
    _check_targets(tree, str(config))
    model = instantiate(OmegaConf.create(tree), _recursive_=True)
    if checkpoint is not None:
        _load_weights(model, Path(checkpoint))
    return model.eval().requires_grad_(False)


def model_tree(config: str | Path, *, postprocessing: bool) -> dict:
    """Return the resolved YAML of a model, with the overrides that `build_model` applies."""
    tree = _read_config(config)
    if postprocessing:
        tree.setdefault("sam_mask_decoder_extra_args", {}).update(STABILITY_OVERRIDES)
    return tree


def _read_config(config: str | Path) -> dict:
    path = next((p for p in (Path(config), Path(sam2.__path__[0]) / config) if p.is_file()), None)
    if path is None:
        raise UserError(
            str(config),
            expected="a SAM2 config: a YAML file, or a name inside the sam2 package",
            got="no such file",
            remedy="set reward.sam2_config to a path or to a name such as "
            "configs/sam2.1/sam2.1_hiera_l.yaml",
        )
    tree = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise UserError(
            str(path), expected="a mapping `model:`", got="none", remedy="use a SAM2 config YAML"
        )
    return tree["model"]


def _check_targets(node: Any, where: str) -> None:
    """Raise UserError unless every `_target_` is a class that the sam2 package itself defines.

    Hydra calls the object that a `_target_` names, so any other target could run any program.
    """
    if isinstance(node, list):
        for item in node:
            _check_targets(item, where)
    elif isinstance(node, dict):
        if "_target_" in node and not _is_sam2_class(node["_target_"]):
            raise UserError(
                where,
                expected="every _target_ to be a class of the sam2 package",
                got=repr(node["_target_"]),
                remedy="use a config written for sam2; others could run any program",
            )
        for item in node.values():
            _check_targets(item, where)


def _is_sam2_class(target: Any) -> bool:
    # Import the module and read one attribute only: "sam2.build_sam.os.system" starts with "sam2."
    # too.
    module, _, name = str(target).rpartition(".")
    if not module.startswith("sam2."):
        return False
    try:
        value = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return False
    return isinstance(value, type) and value.__module__.startswith("sam2.")


def _load_weights(model: torch.nn.Module, path: Path) -> None:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)["model"]
        model.load_state_dict(weights)
    except Exception as error:
        raise UserError(
            str(path),
            expected="SAM2 weights (.pt with a `model` entry, or .safetensors) that fit the config",
            got=f"{type(error).__name__}: {str(error)[:500]}",
            remedy="check reward.sam2_checkpoint and reward.sam2_config",
        ) from error

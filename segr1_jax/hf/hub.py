"""Repositories of the Hugging Face Hub as local files, in the cache that its other users share.

Progress bars, tokens, resumed downloads, locks between processes and HF_HUB_OFFLINE are those of
huggingface_hub. No other module of ours downloads anything.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi, get_cached_repo_tree, hf_hub_download, snapshot_download

from segr1_jax.common.hub_ids import HubId, RepoType, hub_id
from segr1_jax.common.optional_packages import optional_package
from segr1_jax.errors import UserError
from segr1_jax.hf.hub_faults import naming_hub_faults
from segr1_jax.prompt.texts import TEXTS_FILE
from segr1_jax.reward.config import RewardConfig

# Files of a policy: weights in safetensors only, and nothing below a subfolder.
POLICY_FILES = (
    *("*.safetensors", "*.json", "*.txt", "*.jinja", "*.model", "*.md", "LICENSE*"),
    TEXTS_FILE,
)
NO_SUBFOLDERS = ("*/*",)
_BY_SIZE = {"tiny": "t", "small": "s", "base-plus": "b+", "large": "l"}
# Repository -> (configuration inside the sam2 package, weights), as sam2.build_sam has it, which
# only the sidecar can import: these repositories hold weights for transformers too.
SAM2_REPOSITORIES = {
    f"facebook/{family}-hiera-{size}": (
        f"configs/{family}/{family}_hiera_{short}.yaml",
        f"{family}_hiera_{size.replace('-', '_')}.pt",
    )
    for family in ("sam2", "sam2.1")
    for size, short in _BY_SIZE.items()
}


class Sam2Files(NamedTuple):
    """Configuration of a SAM2, a path or a name inside the sam2 package, and its weights."""

    config: str
    checkpoint: str


def pinned(name: HubId, repo_type: RepoType, field: str) -> HubId:
    """Return the repository at the commit that its revision names now.

    Without a network it is the commit that the cache has for this revision.

    Raises:
        UserError: no such repository or revision, no access, or no network and nothing cached.
    """
    if name.is_pinned:
        return name
    with naming_hub_faults(field, name, repo_type):
        found = HfApi().resolve_revision(name.repo, repo_type=repo_type, revision=name.revision)
    return dataclasses.replace(name, revision=found.resolved)


def local_policy(source: str | Path, field: str = "policy.path") -> Path:
    """Return the directory of a policy: `source` itself, or its repository in the cache.

    Args:
        source: a path, or ORG/NAME[@revision]; files that the cache lacks are downloaded.
        field: the key or option that names it, for errors.

    Raises:
        UserError: as `pinned`, a full disk, a truncated file, or no safetensors in the repository.
    """
    if (name := hub_id(str(source))) is None:
        return Path(source)
    folder = _snapshot(name, "model", field, POLICY_FILES)
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{field} = {name}",
            expected="a repository with weights in safetensors",
            got="no *.safetensors in it",
            remedy="convert the weights with transformers' save_pretrained, or name another one",
        )
    return folder


def local_architecture(source: str | Path, field: str = "policy.path") -> Path:
    """Return a directory with the config.json of a policy. No weights are downloaded."""
    name = hub_id(str(source))
    return Path(source) if name is None else _snapshot(name, "model", field, ("config.json",))


def local_data(source: str | Path, field: str) -> Path:
    """Return the folder or file of a data set: `source` itself, or its repository in the cache.

    Raises:
        UserError: as `local_policy`, or the package that reads data sets is not installed.
    """
    if (name := hub_id(str(source))) is None:
        return Path(source)
    # Before tens of gigabytes are downloaded.
    optional_package("datasets", "hub")
    return _snapshot(name, "dataset", field)


def local_sam2(source: str, field: str = "reward.sam2") -> Sam2Files:
    """Return the configuration and the weights of the SAM2 in ORG/NAME[@revision].

    Raises:
        UserError: as `pinned`, a full disk, a truncated file, or other files than one .yaml and
            one .pt or .safetensors in a repository that sam2 does not know.
    """
    if (name := hub_id(source)) is None:
        raise UserError(
            field,
            expected="ORG/NAME or ORG/NAME@revision of a repository on the Hub",
            got=repr(source),
            remedy="name local files with reward.sam2_config and reward.sam2_checkpoint",
        )
    name = pinned(name, "model", field)
    if name.repo in SAM2_REPOSITORIES:
        config, weights = SAM2_REPOSITORIES[name.repo]
        return Sam2Files(config, _file(name, weights, field))
    # Listing the files is part of the first download.
    folder = _snapshot(name, "model", field, ("*.yaml",))
    with naming_hub_faults(field, name, "model"):
        tree = get_cached_repo_tree(name.repo, revision=name.revision)
    files = [file.path for file in tree if "/" not in file.path]
    configs = [file for file in files if file.endswith(".yaml")]
    weights = [file for file in files if file.endswith((".pt", ".safetensors"))]
    if len(configs) != 1 or len(weights) != 1:
        raise UserError(
            f"{field} = {name}",
            expected="one .yaml and one .pt or .safetensors",
            got=", ".join(configs + weights) or "none of them",
            remedy="download the files and name them in reward.sam2_config and .sam2_checkpoint",
        )
    return Sam2Files(str(folder / configs[0]), _file(name, weights[0], field))


def with_local_sam2(reward: RewardConfig) -> RewardConfig:
    """Return `reward` with the local files of its SAM2 on the Hub; without one, itself.

    Raises:
        UserError: as local_sam2.
    """
    if not reward.sam2:
        return reward
    files = local_sam2(reward.sam2)
    return dataclasses.replace(
        reward, sam2="", sam2_config=files.config, sam2_checkpoint=files.checkpoint
    )


def _snapshot(
    name: HubId, repo_type: RepoType, field: str, patterns: tuple[str, ...] | None = None
) -> Path:
    """Return the folder of a repository in the cache, with every file that `patterns` match."""
    name = pinned(name, repo_type, field)
    with naming_hub_faults(field, name, repo_type):
        folder = snapshot_download(
            name.repo,
            repo_type=repo_type,
            revision=name.revision,
            allow_patterns=patterns and list(patterns),
            ignore_patterns=patterns and list(NO_SUBFOLDERS),
        )
    return Path(folder)


def _file(name: HubId, file: str, field: str) -> str:
    with naming_hub_faults(field, name, "model"):
        return hf_hub_download(name.repo, file, revision=name.revision)

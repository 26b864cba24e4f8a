"""Local files in place of repositories on the Hub, of the same commits in every process of a run.

Only the first process asks which commit a branch or tag is at, because it may move before another
process asks. Each process then downloads what its cache lacks; processes that share a cache take
turns at each file.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

import jax

from segr1_jax.common.hub_ids import HubId, RepoType, hub_id
from segr1_jax.config.loading import load_config
from segr1_jax.config.schema import PolicyConfig, RunConfig
from segr1_jax.data.config import DataConfig
from segr1_jax.hf.hub import local_data, local_policy, pinned, with_local_sam2
from segr1_jax.reward.config import RewardConfig
from segr1_jax.runtime.processes import text_of_first
from segr1_jax.runtime.run_directory import RunDir, has_begun

SECTIONS = ("policy", "data", "eval_data", "reward")


def with_local_files(config: RunConfig, sections: Collection[str] = SECTIONS) -> RunConfig:
    """Return `config` with local files in place of the repositories that `sections` name.

    config.commits has their commits. A run that has begun keeps those that it recorded.

    Raises:
        UserError: no such repository, revision or file, no access, no network, or a full disk.
    """
    named = {field: text for field, text in _texts(config).items() if _section(field) in sections}
    found = {field: name for field, text in named.items() if (name := hub_id(text))}
    # A path may stand for the other fields, but no path is a SAM2 with its configuration.
    if named.get("reward.sam2") and "reward.sam2" not in found:
        with_local_sam2(config.reward)
    if not found:
        return config
    known = dict(config.commits) | _recorded(config)

    def resolve() -> str:
        return json.dumps(
            {
                _key(field, name): known.get(_key(field, name))
                or pinned(name, _repo_type(field), field).revision
                for field, name in found.items()
            }
        )

    commits = json.loads(_same_everywhere(resolve))
    at = {field: str(HubId(name.repo, commits[_key(field, name)])) for field, name in found.items()}
    moving = {_key(field, name) for field, name in found.items() if not name.is_pinned}
    return replace(
        config,
        commits=known | {key: commits[key] for key in sorted(moving)},
        policy=_local_start(config.policy, at),
        data=_local_source(config.data, "data", at),
        eval_data=_local_source(config.eval_data, "eval_data", at),
        reward=_local_reward(config.reward, at),
    )


def at_recorded_commits(config: RunConfig) -> RunConfig:
    """Return `config` with its repositories at the commits that its run recorded.

    Nothing is downloaded. A name stays as it is where no commit was recorded for it.
    """
    known = dict(config.commits) | _recorded(config)
    at = {}
    for field, text in _texts(config).items():
        name = hub_id(text)
        commit = known.get(_key(field, name)) if name else None
        at[field] = str(HubId(name.repo, commit)) if commit else text
    return replace(
        config,
        commits=known,
        policy=replace(config.policy, path=at["policy.path"]),
        data=replace(config.data, path=at.get("data.path", config.data.path)),
        eval_data=replace(config.eval_data, path=at.get("eval_data.path", config.eval_data.path)),
        reward=replace(config.reward, sam2=at["reward.sam2"]),
    )


def local_source(source: Path, option: str) -> Path:
    """Return the directory of a policy that an option names, by path or as ORG/NAME[@revision]."""
    name = hub_id(str(source))
    if name is None:
        return source
    commit = _same_everywhere(lambda: pinned(name, "model", option).revision)
    return local_policy(str(HubId(name.repo, commit)), option)


def _texts(config: RunConfig) -> dict[str, str]:
    """Return the fields that may name a repository."""
    fields = {"policy.path": config.policy.path, "reward.sam2": config.reward.sam2}
    for section in ("data", "eval_data"):
        data = getattr(config, section)
        if data.kind == "hub":
            fields[f"{section}.path"] = data.path
    return fields


def _local_start(policy: PolicyConfig, at: Mapping[str, str]) -> PolicyConfig:
    if "policy.path" not in at:
        return policy
    return replace(policy, path=str(local_policy(at["policy.path"])))


def _local_source(data: DataConfig, section: str, at: Mapping[str, str]) -> DataConfig:
    field = f"{section}.path"
    return replace(data, path=str(local_data(at[field], field))) if field in at else data


def _local_reward(reward: RewardConfig, at: Mapping[str, str]) -> RewardConfig:
    if "reward.sam2" not in at:
        return reward
    return with_local_sam2(replace(reward, sam2=at["reward.sam2"]))


def _recorded(config: RunConfig) -> dict[str, str]:
    """Return the commits that the run directory has recorded, if the run has begun."""
    run = RunDir(Path(config.run_dir))
    begun = run.config.is_file() and run.checkpoints.is_dir() and has_begun(run)
    return dict(load_config(run.config).commits) if begun else {}


def _same_everywhere(make: Callable[[], str]) -> str:
    """Return the text that `make` returns in the first process.

    A single process does not start its devices for that: a wrong name is reported before them.
    """
    return text_of_first(make) if jax.distributed.is_initialized() else make()


def _section(field: str) -> str:
    return field.partition(".")[0]


def _repo_type(field: str) -> RepoType:
    return "dataset" if field.endswith("data.path") else "model"


def _key(field: str, name: HubId) -> str:
    """Return the name of a repository as in the addresses of the Hub."""
    return f"{'datasets/' * (_repo_type(field) == 'dataset')}{name}"

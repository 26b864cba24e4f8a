"""Configurations that name files of the Hub by repository and commit.

A command works with local files (runtime/hub_files.py). What a run records must not depend on where
the cache of a host is, and must name the commit that was used.
"""

from dataclasses import replace
from pathlib import Path

from segr1_jax.common.hub_ids import cached_id
from segr1_jax.config.schema import RunConfig
from segr1_jax.reward.config import RewardConfig


def portable(config: RunConfig) -> RunConfig:
    """Return `config` with each path in the cache of the Hub as ORG/NAME@COMMIT."""
    return replace(
        config,
        policy=replace(config.policy, path=_named(config.policy.path)),
        data=replace(config.data, path=_named(config.data.path)),
        eval_data=replace(config.eval_data, path=_named(config.eval_data.path)),
        reward=_portable_reward(config.reward),
    )


def _portable_reward(reward: RewardConfig) -> RewardConfig:
    name = cached_id(reward.sam2_checkpoint) if reward.sam2_checkpoint else None
    # The configuration is a name inside the sam2 package, or a file of the same repository.
    own_config = Path(reward.sam2_config).is_file() and cached_id(reward.sam2_config) != name
    if name is None or own_config:
        return reward
    return replace(reward, sam2=str(name), sam2_config="", sam2_checkpoint="")


def _named(path: str) -> str:
    name = cached_id(path) if path else None
    return path if name is None else str(name)

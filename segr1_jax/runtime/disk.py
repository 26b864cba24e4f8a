"""Disk space and host memory that the checkpoints of a run need, checked before the first step."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import jax

from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError
from segr1_jax.objective.update import TrainState
from segr1_jax.runtime.run_directory import best_root, checkpoint_root

# Assumed bytes per second that a host writes, to a local NVMe disk or a fast shared one.
DISK_RATE = 1e9
GB = 1e9


@dataclass(frozen=True)
class SavingNeeds:
    """Bytes and seconds that saving needs.

    Orbax copies a host's shards to its memory, then writes them while training continues.

    Attributes:
        checkpoint: bytes of one checkpoint.
        disk: bytes of everything kept on disk.
        host_memory: bytes of one host's memory during a save.
        seconds: duration of a save.
    """

    checkpoint: float
    disk: float
    host_memory: float
    seconds: float


def saving_needs(config: RunConfig, state: TrainState, hosts: int) -> SavingNeeds:
    """Return the needs of a run of `config`.

    `state` has arrays or their shapes, of all devices together. An old checkpoint is deleted once
    the new one is complete, so `keep` + 1 checkpoints exist for some time.
    """
    checkpoint, weights = _bytes(state), _bytes(state.params)
    best = (config.keep_best + 1) * weights if config.keep_best else 0
    share = checkpoint / hosts
    return SavingNeeds(
        checkpoint=checkpoint,
        disk=(config.keep + 1) * checkpoint + best,
        host_memory=share,
        seconds=share / DISK_RATE,
    )


def require_disk(config: RunConfig, state: TrainState, hosts: int) -> None:
    """Raise UserError if the disk has no room for the checkpoints.

    An object store is taken to have room.
    """
    root = checkpoint_root(config)
    if "://" in root:
        return
    needs = saving_needs(config, state, hosts)
    missing = needs.disk - _used(Path(root)) - _used(Path(best_root(config)))
    free = shutil.disk_usage(_existing(Path(root))).free
    if missing > free:
        raise UserError(
            "checkpoint_dir",
            expected=f"{missing / GB:.1f} GB free in {root} (keep={config.keep} checkpoints of "
            f"{needs.checkpoint / GB:.1f} GB and one being written, keep_best={config.keep_best})",
            got=f"{free / GB:.1f} GB",
            remedy="clear space, lower keep or keep_best, or set checkpoint_dir to another disk",
        )


def _bytes(tree) -> float:
    return float(sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree)))


def _used(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if each.exists())

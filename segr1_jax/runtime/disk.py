"""Disk and host memory that checkpoints of a run need, checked before the first step."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import jax

from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError
from segr1_jax.objective.update import TrainState
from segr1_jax.runtime.run_directory import best_root, checkpoint_root

# Bytes per second that a host writes: an assumption, of a local NVMe disk or a good shared one.
DISK_RATE = 1e9
GB = 1e9


@dataclass(frozen=True)
class SavingNeeds:
    """Bytes of one checkpoint, of everything kept on disk, of one host's memory; seconds of a save.

    Orbax copies a host's shards to memory, then writes them while training goes on.
    """

    checkpoint: float
    disk: float
    host_memory: float
    seconds: float


def saving_needs(config: RunConfig, state: TrainState, hosts: int) -> SavingNeeds:
    """Return the needs of a run; `state` holds arrays or shapes of all devices together.

    An old checkpoint goes once the new one is whole, so one more than `keep` lie there for a while.
    """
    whole, weights = _bytes(state), _bytes(state.params)
    best = (config.keep_best + 1) * weights if config.keep_best else 0
    share = whole / hosts
    return SavingNeeds(whole, (config.keep + 1) * whole + best, share, share / DISK_RATE)


def require_disk(config: RunConfig, state: TrainState, hosts: int) -> None:
    """Raise UserError where the disk has no room for the checkpoints (object stores have)."""
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

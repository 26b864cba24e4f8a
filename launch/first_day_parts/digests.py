"""Digests of a training state, by which two processes can tell whether they hold the same bits."""

import hashlib
from pathlib import Path

import jax
import numpy as np

from segr1_jax.objective.update import TrainState


def digests(state: TrainState, position: int) -> dict[str, str]:
    """Path of an array -> digest of its type, shape and bytes; the position among them."""
    found = {"position": str(position)}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        array = np.asarray(leaf)
        head = f"{array.dtype}{array.shape}".encode()
        found[jax.tree_util.keystr(path)] = hashlib.blake2b(head + array.tobytes()).hexdigest()
    return found


def digests_file(run: Path) -> Path:
    """Beside the run directory, which holds what a run writes and nothing else."""
    return run.with_name("digests.json")

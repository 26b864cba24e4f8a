"""Digests of a training state, for two processes to compare their states bit by bit."""

import hashlib
from pathlib import Path

import jax
import numpy as np

from segr1_jax.objective.update import TrainState


def digests(state: TrainState, position: int) -> dict[str, str]:
    """Return the digest of type, shape and bytes of each array by its path, and the position."""
    result = {"position": str(position)}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        array = np.asarray(leaf)
        head = f"{array.dtype}{array.shape}".encode()
        result[jax.tree_util.keystr(path)] = hashlib.blake2b(head + array.tobytes()).hexdigest()
    return result


def digests_file(run: Path) -> Path:
    """Return the path of the digests, beside the run directory, which has only files of the run."""
    return run.with_name("digests.json")

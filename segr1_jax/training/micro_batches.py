"""Division of a batch into micro-batches of groups of like length.

A program computes as many completion tokens of each prompt as the longest group of its micro-batch
has, rounded up to one of a few capacities (policy/packing.py). Sorting the groups by length keeps
short ones out of the micro-batches of long ones.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from segr1_jax.policy.batch_rows import BATCH
from segr1_jax.runtime.compiled_functions import Watched
from segr1_jax.runtime.mesh import Placement, maxima_over_processes

# Every capacity is a program of its own. Eighths of the longest group waste a sixteenth of it on
# average; below 256 tokens a smaller product takes hardly less time.
MOST_CAPACITIES = 8
SMALLEST_STEP = 256
# Products and attention kernels work in tiles of 64 or 128 tokens.
MULTIPLE = 64


def capacities(tokens: int) -> list[int]:
    """Return the numbers of completion tokens of a prompt that programs are compiled for.

    `tokens` is the most that a group can have.

    Example:
        >>> capacities(96), capacities(1024)
        ([96], [256, 512, 768, 1024])
        >>> capacities(3200)
        [448, 896, 1344, 1792, 2240, 2688, 3200]
    """
    step = max(-(-tokens // (MOST_CAPACITIES * MULTIPLE)) * MULTIPLE, SMALLEST_STEP)
    # The last step is between a half and one and a half of the others.
    return [*range(step, tokens - step // 2, step), tokens]


class MicroBatch(NamedTuple):
    """Part of a batch.

    Attributes:
        rows: this process's rows of it, as indices of the process's rows of the batch.
        capacity: completion tokens of each prompt that its programs compute.
        batch: its arrays on the mesh.
    """

    rows: Int[np.ndarray, " R"]
    capacity: int
    batch: Any


@dataclass(frozen=True)
class Division:
    """Division of batches into `count` micro-batches of one of `capacities` each."""

    placement: Placement
    count: int
    capacities: Sequence[int]

    @functools.cached_property
    def _take(self) -> Watched[[Any, jax.Array], Any]:
        """(batch, rows in each shard) -> those rows; each device takes from its own."""
        take = jax.shard_map(
            lambda batch, rows: jax.tree.map(lambda x: x[rows], batch),
            mesh=self.placement.mesh,
            in_specs=(BATCH, BATCH),
            out_specs=BATCH,
        )
        return Watched("micro_batch", take)

    def __call__(self, batch: Any, tokens_B: Int[np.ndarray, " B"]) -> list[MicroBatch]:
        """Return the micro-batches of a global batch; all processes call it together.

        `tokens_B` are the completion tokens of each prompt of this process. Rows stay on their
        device.
        """
        shards = self.placement.row_shards // jax.process_count()
        parts = rows_by_length(tokens_B, shards, self.count)
        longest = np.array([tokens_B[rows].max() for rows in parts])
        micros = []
        for rows, most in zip(parts, maxima_over_processes(longest), strict=True):
            in_shard = self.placement.put_rows(rows % (len(tokens_B) // shards))
            capacity = next(size for size in self.capacities if size >= most)
            micros.append(MicroBatch(rows, capacity, self._take(batch, in_shard)))
        return micros


def rows_by_length(
    tokens_B: Int[np.ndarray, " B"], shards: int, count: int
) -> list[Int[np.ndarray, " R"]]:
    """Return the rows of each micro-batch: every shard of the rows gives its longest first.

    Example:
        >>> rows_by_length(np.array([1, 3, 2, 4]), shards=1, count=2)
        [array([3, 1]), array([2, 0])]
    """
    by_shard = tokens_B.reshape(shards, -1)
    order = np.argsort(-by_shard, axis=1, kind="stable")
    rows = order + np.arange(shards)[:, None] * by_shard.shape[1]
    return [part.ravel().astype(np.int32) for part in np.split(rows, count, axis=1)]

"""Counters of a process over a whole run: bad samples by name, and requests of the reward.

A checkpoint holds the tallies of all processes, so a resumed run logs the same counts and stops at
the same limits as an uninterrupted one.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from segr1_jax.data.pipeline import Sample, Skipped
from segr1_jax.runtime.mesh import max_over_processes

REQUESTS = ("scores", "quarantined")


class Tally:
    """Samples of this process that could not be used, and its scored and quarantined requests."""

    def __init__(self):
        self.skipped, self.requests = Skipped(), Counter(dict.fromkeys(REQUESTS, 0))

    def use(self, samples: Iterable[Sample]) -> None:
        """Count the bad samples that `samples` replace; samples read ahead do not count yet."""
        for sample in samples:
            self.skipped.reasons.update(sample.replaces)

    def count_requests(self, now: Counter, before: Counter) -> None:
        """Add the difference of two readings of a client's counters."""
        self.requests.update({name: now[name] - before[name] for name in REQUESTS})

    def restore(self, records: Sequence[dict[str, Any]]) -> None:
        """Restore from `records`, one per process of the run that wrote them.

        Where the number of processes has changed, the first process takes all of them.
        """
        index, count = jax.process_index(), jax.process_count()
        mine = records[index : index + 1] if len(records) == count else records * (index == 0)
        for record in mine:
            self.skipped.reasons.update(record["skipped"])
            self.requests.update(record["requests"])

    def gathered(self) -> list[dict[str, Any]]:
        """Return the records of all processes for a checkpoint; all processes call it together."""
        own = {"skipped": self.skipped.reasons, "requests": dict(self.requests)}
        content = json.dumps(own).encode()
        if jax.process_count() == 1:
            return [json.loads(content)]
        # One shape in all processes; JSON ends where the spaces begin.
        padded = content.ljust(max_over_processes(len(content)))
        rows = np.asarray(multihost_utils.process_allgather(np.frombuffer(padded, np.uint8)))
        return [json.loads(row.tobytes()) for row in rows]

"""What a process counts over a whole run: bad samples by name, and requests of the reward.

A checkpoint holds the tallies of all processes, so a resumed run logs, and stops at, what an
uninterrupted one does.
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
    """Of this process: samples that steps had to do without, and scores and quarantined requests of steps."""

    def __init__(self):
        self.skipped, self.requests = Skipped(), Counter(dict.fromkeys(REQUESTS, 0))

    def use(self, samples: Iterable[Sample]) -> None:
        """Count the bad samples that `samples` replace. What threads have read ahead does not count."""
        for sample in samples:
            self.skipped.reasons.update(sample.replaces)

    def count_requests(self, now: Counter, before: Counter) -> None:
        """Add what a client counted between two moments."""
        self.requests.update({name: now[name] - before[name] for name in REQUESTS})

    def restore(self, records: Sequence[dict[str, Any]]) -> None:
        """Go on from `records`, one for each process that there was; one of several takes all where their number has changed."""
        index, count = jax.process_index(), jax.process_count()
        mine = records[index : index + 1] if len(records) == count else records * (index == 0)
        for record in mine:
            self.skipped.reasons.update(record["skipped"])
            self.requests.update(record["requests"])

    def gathered(self) -> list[dict[str, Any]]:
        """The records of all processes, for a checkpoint; all call it together."""
        own = {"skipped": self.skipped.reasons, "requests": dict(self.requests)}
        content = json.dumps(own).encode()
        if jax.process_count() == 1:
            return [json.loads(content)]
        # One shape in all processes; JSON ends where the spaces begin.
        padded = content.ljust(max_over_processes(len(content)))
        rows = np.asarray(multihost_utils.process_allgather(np.frombuffer(padded, np.uint8)))
        return [json.loads(row.tobytes()) for row in rows]

"""Requests in flight, with the faults that count against them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from segr1_jax.reward.transport.protocol import Reply, Request

# Quarantine a request that was being processed at this many failures of the sidecar's own making.
FAULTS_TO_QUARANTINE = 2
# Quarantine a request whose rewritten blocks were damaged this many times: the memory is bad.
DAMAGES_TO_QUARANTINE = 3
# Quarantine a request that was being processed at this many deaths of any cause: a process killed
# for using too much memory may have the same exit status as one killed by a person.
DEATHS_TO_QUARANTINE = 6


@dataclass
class Job:
    """A request in flight. `done` and `rewrite` are called with the supervisor's lock held.

    `done` gets the reply, or None if the request is quarantined. `rewrite` writes the blocks of the
    request again.
    """

    request: Request
    done: Callable[[Reply | None], None]
    rewrite: Callable[[], None]
    faults: int = 0
    deaths: int = 0
    damages: int = 0

    def count_death(self, *, at_fault: bool) -> bool:
        """Count a sidecar that ended during this request; return whether to quarantine it."""
        self.deaths += 1
        self.faults += at_fault
        return self.faults >= FAULTS_TO_QUARANTINE or self.deaths >= DEATHS_TO_QUARANTINE

    def count_damage(self) -> bool:
        """Count a damaged block of this request; return whether to quarantine it."""
        self.damages += 1
        return self.damages >= DAMAGES_TO_QUARANTINE


class Failure(NamedTuple):
    """Reason to replace a sidecar.

    `request_at_fault` is None if the sidecar exited on its own: its exit status then decides.
    """

    reason: str
    request_at_fault: bool | None = None

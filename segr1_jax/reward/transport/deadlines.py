"""Deadlines of a running sidecar, measured without the time in which the trainer is suspended."""

import time

from segr1_jax.reward.config import RewardConfig

# A longer interval between two polls means that the trainer itself was stopped or suspended.
LONGEST_TICK_S = 1.0
# A request may take this many times the duration of the encode at start-up: SAM2-L takes 18 s on an
# idle CPU thread and 46 s on a busy one, and encodes twice after it ran out of memory.
ENCODES_TO_DEADLINE = 5


class Ticks:
    """Clock of the time between two polls, without the time in which this process is suspended."""

    def __init__(self):
        self._polled_at = time.monotonic()

    def next(self) -> float:
        """Return the seconds since the last call, at most LONGEST_TICK_S."""
        now = time.monotonic()
        tick, self._polled_at = min(now - self._polled_at, LONGEST_TICK_S), now
        return tick


class Deadlines:
    """Time since the last reply and since the last heartbeat of a sidecar."""

    def __init__(self, config: RewardConfig):
        self._request_timeout_s = config.request_timeout_s
        self._heartbeat_timeout_s = config.heartbeat_timeout_s
        self._unanswered_s = self._silent_s = 0.0

    def restart(self) -> None:
        """Start both counts from zero, for a new sidecar."""
        self._unanswered_s = self._silent_s = 0.0

    def restart_reply(self) -> None:
        """Start the count of the reply from zero, at a reply or at a request after an idle time.

        Each reply restarts it, so the time that a request waits behind others is not counted.
        """
        self._unanswered_s = 0.0

    def advance(self, tick_s: float, *, beating: bool) -> None:
        """Add `tick_s` seconds; `beating` says whether there was a heartbeat in that time."""
        self._unanswered_s += tick_s
        self._silent_s = 0.0 if beating else self._silent_s + tick_s

    def missed(self, encode_s: float, in_flight: int) -> str:
        """Return the missed deadline in words, or an empty string.

        Args:
            encode_s: duration of the encode at start-up of this sidecar, seconds.
            in_flight: number of unanswered requests.
        """
        deadline_s = max(self._request_timeout_s, ENCODES_TO_DEADLINE * encode_s)
        if in_flight and self._unanswered_s > deadline_s:
            return f"did not answer in {deadline_s:g} s (reward.request_timeout_s)"
        timeout_s = self._heartbeat_timeout_s
        if self._silent_s > timeout_s:
            return f"sent no heartbeat for {timeout_s:g} s (reward.heartbeat_timeout_s)"
        return ""

"""The thread that keeps a sidecar alive and every request answered exactly once."""

import logging
import mmap
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from segr1_jax.reward import protocol
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.protocol import ProtocolError, Reply, Request
from segr1_jax.reward.supervisor import Sidecar

POLL_MS = 200  # how often deadlines are looked at
DEATHS_TO_QUARANTINE = 2
RESTARTS_WITHOUT_REPLY = 10

log = logging.getLogger(__name__)


class SidecarLost(RuntimeError):
    """The sidecar cannot be brought back; the message has its last words."""


@dataclass
class Job:
    """A request on its way. `done` gets its reply, or None for quarantine, with the keeper's lock held."""

    request: Request
    done: Callable[[Reply | None], None]
    deaths: int = 0


class Keeper:
    """Owns the sidecar from a thread of its own, as long-lived as itself: the kernel kills a sidecar with the thread that made it.

    `changed` guards all state here and in the client; it is notified at every answer and at the end.
    """

    def __init__(self, config: RewardConfig, region_fd: int, region: mmap.mmap):
        self.changed = threading.Condition()
        self.restarts = 0
        self.quarantined = 0
        self._config, self._region_fd, self._region = config, region_fd, region
        self._jobs: dict[int, Job] = {}  # unanswered, oldest first
        self._unsent: deque[int] = deque()
        self._sidecar: Sidecar | None = None
        self._failure: Exception | None = None
        self._closing = False
        self._heard_at = 0.0
        self._silent_restarts = 0
        self._thread = threading.Thread(target=self._run, name="segr1-reward-keeper", daemon=True)

    def start(self) -> None:
        """Return when the sidecar is up, or raise what kept it from coming up."""
        self._thread.start()
        with self.changed:
            self.wait_for(lambda: self._sidecar is not None)

    def close(self) -> None:
        """End the sidecar; unanswered requests stay so."""
        with self.changed:
            self._closing = True
        self._thread.join()

    @property
    def pid(self) -> int:
        """The process id of the sidecar; waits while one is being started."""
        with self.changed:
            self.wait_for(lambda: self._sidecar is not None)
            return self._sidecar.pid

    @property
    def in_flight(self) -> int:
        return len(self._jobs)

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Wait, with the lock held, until `ready()`; raise what ended the keeper meanwhile."""
        self.changed.wait_for(lambda: self._failure is not None or ready())
        if self._failure is not None:
            raise self._failure

    def post(self, job: Job) -> None:
        """Send a job, with the lock held."""
        if not self._jobs:
            self._heard_at = time.monotonic()
        self._jobs[job.request.seq] = job
        self._unsent.append(job.request.seq)
        self._flush()

    def _run(self) -> None:
        try:
            self._bring_up()
            while (reason := self._listen()) is not None:
                self._bury(reason)
                self._bring_up()
        except Exception as error:  # noqa: BLE001 (handed over to whoever waits)
            self._failure = error
        finally:
            if self._sidecar is not None:
                self._sidecar.stop()
            with self.changed:
                self._failure = self._failure or SidecarLost("the reward client is closed")
                self.changed.notify_all()

    def _bring_up(self) -> None:
        sidecar = Sidecar(self._config, self._region_fd)
        with self.changed:
            self._sidecar, self._heard_at = sidecar, time.monotonic()
            self._unsent = deque(self._jobs)
            self._flush()
            self.changed.notify_all()

    def _listen(self) -> str | None:
        """Take replies until the sidecar fails, for a reason, or until close, for None."""
        poller = select.poll()
        poller.register(self._sidecar.socket, select.POLLIN)
        while True:
            readable = poller.poll(POLL_MS)
            with self.changed:
                if self._closing:
                    return None
                try:
                    if readable and not self._take_reply():
                        return "ended"
                except (ConnectionError, ProtocolError) as error:
                    return f"broke off: {error}"
                if self._jobs and time.monotonic() - self._heard_at > self._config.request_timeout_s:
                    return f"did not answer in {self._config.request_timeout_s:g} s"
                self._flush()

    def _take_reply(self) -> bool:
        record = self._sidecar.socket.recv(protocol.RECORD_BYTES * 2)
        if not record:
            return False
        reply = protocol.unpack_reply(record)
        job = self._jobs.pop(reply.seq, None)
        if job is None:
            raise ProtocolError(f"reply to request {reply.seq}, which is not in flight")
        self._heard_at, self._silent_restarts = time.monotonic(), 0
        job.done(reply)
        self.changed.notify_all()
        return True

    def _flush(self) -> None:
        """Send what the socket takes now; the rest goes after the next reply, or to the next sidecar."""
        if self._sidecar is None:
            return
        try:
            while self._unsent:
                self._sidecar.socket.send(protocol.pack_request(self._jobs[self._unsent[0]].request))
                self._unsent.popleft()
        except (BlockingIOError, ConnectionError):
            return

    def _bury(self, reason: str) -> None:
        """End a failed sidecar; blame the request that it was working on."""
        with self.changed:
            dead, self._sidecar = self._sidecar, None
        obituary = dead.kill()
        self.restarts += 1
        self._silent_restarts += 1
        log.warning("the reward sidecar %s (%s); starting another", reason, obituary.strip())
        if self._silent_restarts > RESTARTS_WITHOUT_REPLY:
            raise SidecarLost(f"{self._silent_restarts} sidecars in a row answered nothing; the last {reason}: {obituary}")
        with self.changed:
            job = self._jobs.get(protocol.get_working(self._region))
            protocol.set_working(self._region, 0)
            if job is None:
                return
            job.deaths += 1
            if job.deaths >= DEATHS_TO_QUARANTINE:
                del self._jobs[job.request.seq]
                self.quarantined += 1
                job.done(None)
                self.changed.notify_all()

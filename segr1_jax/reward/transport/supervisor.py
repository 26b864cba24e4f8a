"""The thread that keeps a sidecar alive and every request answered exactly once."""

import logging
import mmap
import select
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.transport import protocol
from segr1_jax.reward.transport.incidents import Incidents, describe
from segr1_jax.reward.transport.process import POLL_MS, CannotStart, Sidecar, Ticks
from segr1_jax.reward.transport.protocol import ProtocolError, Reply, Request

FAULTS_TO_QUARANTINE = 2  # the request was in work when the sidecar failed by itself
DAMAGES_TO_QUARANTINE = 3  # blocks written anew that often are damaged again: the memory is bad
DEATHS_TO_QUARANTINE = 6  # or ended for whatever reason: some killers of memory hogs leave no trace that tells them from a person
# Of the start-up encode, before a request counts as stuck: SAM2-L takes 18 s on a free CPU thread
# and 46 s on a busy one, and out of memory it is encoded twice.
ENCODES_TO_DEADLINE = 5
# The budget of restarts, full again with every answer: a run survives any number of kills between
# which it makes progress, and a broken host ends it after about three minutes of pauses.
RESTARTS_WITHOUT_REPLY = 40
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0  # before a restart; doubled until the next answer

log = logging.getLogger(__name__)


class SidecarLost(RuntimeError):
    """The sidecar cannot be brought back; the message has its last words."""


@dataclass
class Job:
    """A request on its way, with the keeper's lock held in both calls.

    `done` gets its reply, or None for quarantine; `write_anew` writes the request's blocks again.
    """

    request: Request
    done: Callable[[Reply | None], None]
    write_anew: Callable[[], None]
    faults: int = 0
    deaths: int = 0
    damages: int = 0


class Failure(NamedTuple):
    """Why a sidecar must be replaced. `request_at_fault` None: its exit status tells."""

    reason: str
    request_at_fault: bool | None = None


class Keeper:
    """Owns the sidecar from a thread of its own, as long-lived as itself: the kernel kills a sidecar with the thread that made it.

    `changed` guards all state here and in the channel; it is notified at every answer and at the end.
    """

    def __init__(
        self, config: RewardConfig, region_fd: int, region: mmap.mmap, incidents: Path | None = None
    ):
        self.changed = threading.Condition()
        self.restarts = 0
        self.quarantined = 0
        self.damaged = 0
        self._config, self._region_fd, self._region = config, region_fd, region
        self._incidents = Incidents(incidents)
        self._jobs: dict[int, Job] = {}  # unanswered, oldest first
        self._unsent: deque[int] = deque()
        self._sidecar: Sidecar | None = None
        self._failure: Exception | None = None
        self._closing = self._was_up = False
        self._unanswered_s = self._silent_s = 0.0
        self._silent_restarts = 0
        self._thread = threading.Thread(target=self._run, name="segr1-reward-keeper", daemon=True)

    def start(self) -> None:
        """Begin to bring the sidecar up; `wait_until_up` returns when it is."""
        self._thread.start()

    def wait_until_up(self) -> None:
        """Return when the sidecar is up, or raise what kept it from coming up."""
        with self.changed:
            self.wait_for(lambda: self._sidecar is not None)

    def close(self) -> None:
        """End the sidecar; unanswered requests stay so."""
        with self.changed:
            self._closing = True
            self.changed.notify_all()
        if self._thread.ident is not None:
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
            self._unanswered_s = 0.0
        self._jobs[job.request.seq] = job
        self._unsent.append(job.request.seq)
        self._flush()

    def _run(self) -> None:
        try:
            while self._bring_up() and (failure := self._listen()) is not None:
                self._bury(failure)
        except Exception as error:  # noqa: BLE001 (handed over to whoever waits)
            self._failure = error
        finally:
            if self._sidecar is not None:
                self._sidecar.stop()
            with self.changed:
                self._failure = self._failure or SidecarLost("the reward client is closed")
                self.changed.notify_all()

    def _bring_up(self) -> bool:
        """Start sidecars until one is up; False once the client closes.

        Raises:
            UserError: the first one failed by itself: the configuration may be wrong.
            SidecarLost: the budget of restarts is spent.
        """
        while not self._closing:
            try:
                sidecar = Sidecar(self._config, self._region_fd, lambda: self._closing)
            except CannotStart as error:
                if error.own_fault and not self._was_up:
                    raise error.blame() from error
                if not self._closing:
                    self._count_restart(f"did not start: {error}")
                continue
            self._hand_over(sidecar)
            return True
        return False

    def _hand_over(self, sidecar: Sidecar) -> None:
        """Send the unanswered requests to a new sidecar."""
        with self.changed:
            self._sidecar, self._was_up = sidecar, True
            self._unanswered_s = self._silent_s = 0.0
            # What was in work when a sidecar died goes last: whatever happens to it again costs the others nothing.
            self._unsent = deque(sorted(self._jobs, key=lambda seq: (self._jobs[seq].deaths, seq)))
            self._flush()
            self.changed.notify_all()

    def _count_restart(self, reason: str) -> None:
        """Log a loss and pause before the next start, unless the budget of restarts is spent."""
        self.restarts += 1
        self._silent_restarts += 1
        if self._silent_restarts > RESTARTS_WITHOUT_REPLY:
            raise SidecarLost(
                f"{self._silent_restarts} sidecars in a row answered nothing; the last {reason}"
            )
        log.warning("the reward sidecar %s; starting another", reason)
        pause_s = min(FIRST_PAUSE_S * 2 ** (self._silent_restarts - 1), LONGEST_PAUSE_S)
        with self.changed:
            self.changed.wait_for(lambda: self._closing, pause_s)

    def _listen(self) -> Failure | None:
        """Take replies until the sidecar fails, or until close, for None."""
        poller = select.poll()
        poller.register(self._sidecar.socket, select.POLLIN)
        ticks, beats = Ticks(), -1
        while True:
            readable = poller.poll(POLL_MS)
            tick = ticks.next()
            with self.changed:
                if self._closing:
                    return None
                self._unanswered_s += tick
                beats, last = protocol.get_beats(self._region), beats
                self._silent_s = 0.0 if beats != last else self._silent_s + tick
                try:
                    if readable and not self._take_reply():
                        return Failure("ended")
                except (ConnectionError, ProtocolError) as error:
                    return Failure(f"broke off: {error}")
                self._flush()
                missed = self._missed_deadline()
            if missed:
                return self._watch_out(missed)

    def _take_reply(self) -> bool:
        record = self._sidecar.socket.recv(protocol.RECORD_BYTES * 2)
        if not record:
            return False
        reply = protocol.unpack_reply(record)
        job = self._jobs.get(reply.seq)
        if job is None:
            raise ProtocolError(f"reply to request {reply.seq}, which is not in flight")
        self._unanswered_s = self._silent_restarts = 0
        if reply.note:
            self._incidents.note(reply.note)
        if reply.damaged or not self._is_intact(job.request, reply):
            self._ask_again(job)
            return True
        del self._jobs[reply.seq]
        job.done(reply)
        self.changed.notify_all()
        return True

    def _is_intact(self, request: Request, reply: Reply) -> bool:
        if not request.result_at:
            return True
        size = protocol.packed_bytes(request.height, request.width)
        block = self._region[request.result_at : request.result_at + size]
        return protocol.checksum(block) == reply.result_sum

    def _ask_again(self, job: Job) -> None:
        """Write a damaged request's blocks anew and send it once more."""
        self.damaged += 1
        job.damages += 1
        what = f"{describe(job.request)} had a damaged block in shared memory"
        if job.damages >= DAMAGES_TO_QUARANTINE:
            self._quarantine(job, f"{what} {job.damages} times")
            return
        log.warning("%s; it is written anew", what)
        job.write_anew()
        self._unsent.append(job.request.seq)

    def _flush(self) -> None:
        """Send what the socket takes now; the rest goes after the next reply, or to the next sidecar."""
        if self._sidecar is None:
            return
        try:
            while self._unsent:
                self._sidecar.socket.send(
                    protocol.pack_request(self._jobs[self._unsent[0]].request)
                )
                self._unsent.popleft()
        except (BlockingIOError, ConnectionError):
            return

    def _missed_deadline(self) -> str:
        # Each answer begins the count anew: waiting in line behind others is not counted.
        encodes_s = ENCODES_TO_DEADLINE * self._sidecar.encode_s
        deadline_s = max(self._config.request_timeout_s, encodes_s)
        if self._jobs and self._unanswered_s > deadline_s:
            return f"did not answer in {deadline_s:g} s (reward.request_timeout_s)"
        if self._silent_s > self._config.heartbeat_timeout_s:
            return f"gave no sign of life for {self._config.heartbeat_timeout_s:g} s (reward.heartbeat_timeout_s)"
        return ""

    def _watch_out(self, missed: str) -> Failure:
        """Say what is being waited for and keep the stacks of both sides. That somebody has stopped a process is no request's fault."""
        job = self._jobs.get(protocol.get_working(self._region))
        work = describe(job.request) if job else "nothing"
        stopped, stacks = self._sidecar.is_stopped, self._sidecar.stacks()
        self._incidents.missed_deadline(
            f"reward sidecar {self._sidecar.pid} {missed}, with {work} in work, {len(self._jobs)} waiting for an answer",
            stacks,
        )
        return Failure(missed, request_at_fault=not stopped)

    def _bury(self, failure: Failure) -> None:
        """End a failed sidecar; count its death against the request that it was working on."""
        with self.changed:
            dead, self._sidecar = self._sidecar, None
        ending = dead.kill() if failure.request_at_fault is not None else dead.stop()
        at_fault = (
            ending.own_fault if failure.request_at_fault is None else failure.request_at_fault
        )
        with self.changed:
            job = self._jobs.get(protocol.get_working(self._region))
            protocol.set_working(self._region, 0)
            if job is not None:
                job.deaths += 1
                job.faults += at_fault
                if job.faults >= FAULTS_TO_QUARANTINE or job.deaths >= DEATHS_TO_QUARANTINE:
                    self._quarantine(job, str(ending))
        self._count_restart(f"{failure.reason} ({str(ending).strip()})")

    def _quarantine(self, job: Job, obituary: str) -> None:
        self._incidents.quarantine(job.request, self._region, obituary)
        del self._jobs[job.request.seq]
        self.quarantined += 1
        self._silent_restarts = 0
        job.done(None)
        self.changed.notify_all()

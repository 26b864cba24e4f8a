"""Thread that keeps a sidecar running and has every request answered exactly once."""

import logging
import mmap
import select
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.transport import protocol
from segr1_jax.reward.transport.deadlines import Deadlines, Ticks
from segr1_jax.reward.transport.incidents import Incidents, describe
from segr1_jax.reward.transport.jobs import Failure, Job
from segr1_jax.reward.transport.process import POLL_MS, CannotStart, Sidecar
from segr1_jax.reward.transport.protocol import ProtocolError, Reply, Request

# Budget of restarts, refilled by every reply. A run survives any number of kills as long as it
# makes progress between them; on a broken host it ends after about three minutes of pauses.
RESTARTS_WITHOUT_REPLY = 40
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0  # before a restart; doubled until the next reply

log = logging.getLogger(__name__)


class SidecarLost(RuntimeError):
    """The sidecar cannot be restarted; the message ends with the last lines of its output."""


class Supervisor:
    """Owner of one sidecar process, which it starts, watches and replaces in a thread of its own.

    The thread lives as long as the supervisor, because the kernel kills a sidecar when the thread
    that started it ends. `changed` guards all state of the supervisor and of its channel; it is
    notified at every reply and at the end.
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
        self._jobs: dict[int, Job] = {}  # unanswered, by sequence number, oldest first
        self._unsent: deque[int] = deque()
        self._sidecar: Sidecar | None = None
        self._failure: Exception | None = None
        self._closing = self._was_up = False
        self._deadlines = Deadlines(config)
        self._restarts_without_reply = 0
        self._thread = threading.Thread(
            target=self._run, name="segr1-reward-supervisor", daemon=True
        )

    def start(self) -> None:
        """Begin to start the sidecar; `wait_until_up` returns when it is up."""
        self._thread.start()

    def wait_until_up(self) -> None:
        """Return when the sidecar is up, or raise the error that kept it from starting."""
        with self.changed:
            self.wait_for(lambda: self._sidecar is not None)

    def close(self) -> None:
        """Stop the sidecar. Unanswered requests remain unanswered."""
        with self.changed:
            self._closing = True
            self.changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def pid(self) -> int:
        """The process id of the sidecar; waits while a sidecar is being started."""
        with self.changed:
            self.wait_for(lambda: self._sidecar is not None)
            return self._sidecar.pid

    @property
    def in_flight(self) -> int:
        """The number of unanswered requests."""
        return len(self._jobs)

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Wait, with the lock held, until `ready()`, or raise the error that ended the thread."""
        self.changed.wait_for(lambda: self._failure is not None or ready())
        if self._failure is not None:
            raise self._failure

    def post(self, job: Job) -> None:
        """Send a job, with the lock held."""
        if not self._jobs:
            self._deadlines.restart_reply()
        self._jobs[job.request.seq] = job
        self._unsent.append(job.request.seq)
        self._flush()

    def _run(self) -> None:
        try:
            while self._bring_up() and (failure := self._listen()) is not None:
                self._replace(failure)
        except Exception as error:  # noqa: BLE001 (raised in the threads that wait)
            self._failure = error
        finally:
            if self._sidecar is not None:
                self._sidecar.stop()
            with self.changed:
                self._failure = self._failure or SidecarLost("the reward client is closed")
                self.changed.notify_all()

    def _bring_up(self) -> bool:
        """Start sidecars until one is up. Return False if the client closes before that.

        Raises:
            UserError: the first sidecar failed by itself, so the configuration may be wrong.
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
            self._deadlines.restart()
            # A request that was in progress when a sidecar died is sent last, so that another death
            # does not delay the other requests.
            self._unsent = deque(sorted(self._jobs, key=lambda seq: (self._jobs[seq].deaths, seq)))
            self._flush()
            self.changed.notify_all()

    def _count_restart(self, reason: str) -> None:
        """Log a failure and pause before the next start, unless the budget of restarts is spent."""
        self.restarts += 1
        self._restarts_without_reply += 1
        count = self._restarts_without_reply
        if count > RESTARTS_WITHOUT_REPLY:
            raise SidecarLost(f"{count} sidecars in a row sent no reply; the last {reason}")
        log.warning("the reward sidecar %s; starting another", reason)
        pause_s = min(FIRST_PAUSE_S * 2 ** (count - 1), LONGEST_PAUSE_S)
        with self.changed:
            self.changed.wait_for(lambda: self._closing, pause_s)

    def _listen(self) -> Failure | None:
        """Receive replies until the sidecar fails. Return None if the client closes."""
        poller = select.poll()
        poller.register(self._sidecar.socket, select.POLLIN)
        ticks, beats = Ticks(), -1
        while True:
            readable = poller.poll(POLL_MS)
            tick_s = ticks.next()
            with self.changed:
                if self._closing:
                    return None
                beats, last = protocol.get_beats(self._region), beats
                self._deadlines.advance(tick_s, beating=beats != last)
                try:
                    if readable and not self._receive_reply():
                        return Failure("ended")
                except (ConnectionError, ProtocolError) as error:
                    return Failure(f"closed the connection: {error}")
                self._flush()
                missed = self._deadlines.missed(self._sidecar.encode_s, len(self._jobs))
            if missed:
                return self._report_missed(missed)

    def _receive_reply(self) -> bool:
        """Receive one reply and finish its job. Return False if the sidecar closed the socket."""
        record = self._sidecar.socket.recv(protocol.RECORD_BYTES * 2)
        if not record:
            return False
        reply = protocol.unpack_reply(record)
        job = self._jobs.get(reply.seq)
        if job is None:
            raise ProtocolError(f"reply to request {reply.seq}, which is not in flight")
        self._deadlines.restart_reply()
        self._restarts_without_reply = 0
        if reply.note:
            self._incidents.note(reply.note)
        if reply.damaged or not self._is_intact(job.request, reply):
            self._send_again(job)
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

    def _send_again(self, job: Job) -> None:
        """Rewrite the blocks of a request with a damaged block and send it again."""
        self.damaged += 1
        what = f"{describe(job.request)} had a damaged block in shared memory"
        if job.count_damage():
            self._quarantine(job, f"{what} {job.damages} times")
            return
        log.warning("%s; rewriting its blocks", what)
        job.rewrite()
        self._unsent.append(job.request.seq)

    def _flush(self) -> None:
        """Send as many requests as the socket accepts.

        The others are sent after the next reply, or to the next sidecar.
        """
        if self._sidecar is None:
            return
        try:
            while self._unsent:
                request = self._jobs[self._unsent[0]].request
                self._sidecar.socket.send(protocol.pack_request(request))
                self._unsent.popleft()
        except (BlockingIOError, ConnectionError):
            return

    def _report_missed(self, missed: str) -> Failure:
        """Report a missed deadline with the stacks of both processes.

        The request in progress is not at fault if the sidecar was stopped from outside.
        """
        job = self._jobs.get(protocol.get_working(self._region))
        work = describe(job.request) if job else "nothing"
        stopped, stacks = self._sidecar.is_stopped, self._sidecar.stacks()
        self._incidents.missed_deadline(
            f"reward sidecar {self._sidecar.pid} {missed}, with {work} in progress, "
            f"{len(self._jobs)} waiting for an answer",
            stacks,
        )
        return Failure(missed, request_at_fault=not stopped)

    def _replace(self, failure: Failure) -> None:
        """Stop a failed sidecar and count its death against the request that it was working on."""
        with self.changed:
            sidecar, self._sidecar = self._sidecar, None
        ended_itself = failure.request_at_fault is None
        ending = sidecar.stop() if ended_itself else sidecar.kill()
        at_fault = ending.own_fault if ended_itself else failure.request_at_fault
        with self.changed:
            job = self._jobs.get(protocol.get_working(self._region))
            protocol.set_working(self._region, 0)
            if job is not None and job.count_death(at_fault=at_fault):
                self._quarantine(job, str(ending))
        self._count_restart(f"{failure.reason} ({str(ending).strip()})")

    def _quarantine(self, job: Job, reason: str) -> None:
        self._incidents.quarantine(job.request, self._region, reason)
        del self._jobs[job.request.seq]
        self.quarantined += 1
        self._restarts_without_reply = 0
        job.done(None)
        self.changed.notify_all()

"""One sidecar process: start, handshake, end and its cause."""

import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import segr1_jax
from segr1_jax.common.interpreters import interpreter_of_torch
from segr1_jax.common.requirements import pinned
from segr1_jax.errors import UserError
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.transport import protocol
from segr1_jax.reward.transport.command import command, environment
from segr1_jax.reward.transport.deadlines import Ticks

POLL_MS = 200  # longest time between two polls of a sidecar
LAST_BYTES = 3000  # of the output of a sidecar, in messages
OUTPUT_BYTES = 1 << 16  # of the output of a sidecar, in a file
MESSAGE_CHARS = 200
STOP_TIMEOUT_S = 5.0
STACKS_S = 0.5  # time for a sidecar to write its stacks
STACKS_BYTES = 1 << 16
# Exit statuses of a process that was ended from outside.
FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}


class CannotStart(RuntimeError):
    """A sidecar did not start.

    `own_fault` is False if it was ended or stopped from outside. `blame` returns the UserError for
    the case that the configuration is the cause.
    """

    def __init__(self, got: str, own_fault: bool, blame: Callable[[], UserError]):
        super().__init__(got)
        self.own_fault, self.blame = own_fault, blame


class Ending(NamedTuple):
    """End of a sidecar: exit status as in `subprocess`, and its output.

    `out_of_memory` is True if the kernel killed any process for lack of memory in the meantime.
    """

    status: int
    output: str
    out_of_memory: bool = False

    @property
    def own_fault(self) -> bool:
        """False if a signal from outside ended it; the request in progress is then not at fault."""
        return self.status not in FROM_OUTSIDE or (
            self.status == -signal.SIGKILL and self.out_of_memory
        )

    def __str__(self) -> str:
        killer = ", the kernel killed a process for lack of memory" if self.out_of_memory else ""
        last_lines = self.output[-LAST_BYTES:].strip()
        return f"exit status {self.status}{killer}, last lines:\n{last_lines or '(none)'}\n"


class Sidecar:
    """Running sidecar and the trainer's end of its socket.

    Create it in a thread that outlives it: the kernel kills the sidecar when that thread ends.
    `closing` ends the wait for the start once the client closes.

    Raises:
        CannotStart: the sidecar ended, was stopped or did not send its hello in time.
    """

    def __init__(self, config: RewardConfig, region_fd: int, closing: Callable[[], bool]):
        self._config = config
        self._oom_kills = _oom_kills()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed in stop)
        self.socket, sidecar_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with sidecar_end:
            try:
                self._process = subprocess.Popen(
                    command(config, sidecar_end.fileno(), region_fd),
                    stdin=subprocess.DEVNULL,
                    stdout=self._stderr,
                    stderr=self._stderr,
                    pass_fds=(sidecar_end.fileno(), region_fd),
                    env=environment(config),
                )
            except OSError as error:
                self.socket.close()
                self._stderr.close()
                raise _no_interpreter(config, error) from error
        self._shake_hands(closing)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def is_stopped(self) -> bool:
        """True while the process is stopped (SIGSTOP, a debugger)."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
        except FileNotFoundError:
            return False

    def stacks(self) -> str:
        """Return the stacks of all threads of the sidecar, or the reason for having none."""
        if self.is_stopped:
            return f"(process {self.pid} is stopped)"
        # fstat and pread instead of `seek`: both processes share one file position.
        file = self._stderr.fileno()
        written = os.fstat(file).st_size
        self._process.send_signal(signal.SIGUSR1)
        time.sleep(STACKS_S)
        stacks = os.pread(file, STACKS_BYTES, written).decode(errors="replace")
        return stacks or "(nothing was written)"

    def stop(self) -> Ending:
        """Close the socket, which ends the process, and return how it ended."""
        self.socket.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with self._stderr as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - OUTPUT_BYTES))
            output = file.read().decode(errors="replace").strip()
        return Ending(self._process.returncode, output, _oom_kills() > self._oom_kills)

    def kill(self) -> Ending:
        """Kill a process that may no longer answer, and return how it ended."""
        self._process.kill()
        return self.stop()

    def _shake_hands(self, closing: Callable[[], bool]) -> None:
        self._wait_for_hello(closing)
        try:
            hello = protocol.unpack_hello(self.socket.recv(protocol.RECORD_BYTES))
        except (OSError, protocol.ProtocolError) as error:
            ending = self.stop()
            raise self._cannot_start("", ending, ending.own_fault) from error
        self.socket.setblocking(False)
        expected = protocol.Hello(segr1_jax.__version__, pinned("sam2", "sidecar"))
        self.encode_s = hello.encode_s
        if hello._replace(encode_s=0.0) != expected:
            self.stop()
            blame = partial(
                UserError,
                "reward sidecar",
                expected=f"versions {expected._asdict()}",
                got=f"{hello._asdict()}",
                remedy="install the same segr1_jax and the pinned sam2 for reward.python",
            )
            raise CannotStart(f"versions {hello._asdict()}", True, blame)

    def _wait_for_hello(self, closing: Callable[[], bool]) -> None:
        config, ticks = self._config, Ticks()
        waited_s = stopped_s = 0.0
        poller = select.poll()
        poller.register(self.socket, select.POLLIN)
        while not poller.poll(POLL_MS):
            tick = ticks.next()
            waited_s += tick
            stopped_s = stopped_s + tick if self.is_stopped else 0.0
            if stopped_s > config.heartbeat_timeout_s or closing():
                raise self._cannot_start("a stopped process; ", self.kill(), own_fault=False)
            if waited_s > config.start_timeout_s:
                got = f"no hello in {config.start_timeout_s:g} s (reward.start_timeout_s); "
                raise self._cannot_start(got, self.kill(), own_fault=True)

    def _cannot_start(self, got: str, ending: Ending, own_fault: bool) -> CannotStart:
        blame = partial(self._misconfigured, got, ending)
        return CannotStart(f"{got}{str(ending).strip()}", own_fault, blame)

    def _misconfigured(self, got: str, ending: Ending) -> UserError:
        # The last line of a traceback is the error itself.
        last = ending.output.rpartition("\n")[2].removeprefix("segr1_jax.errors.UserError: ")
        last = last[:MESSAGE_CHARS] or f"exit status {ending.status}"
        settings = ", ".join(
            f"reward.{name}={value}"
            for name, value in (
                ("python", self._config.python),
                ("device", self._config.device),
                ("sam2_config", self._config.sam2_config),
                ("sam2_checkpoint", self._config.sam2_checkpoint),
            )
            if value
        )
        return UserError(
            "reward sidecar",
            expected=f"SAM2 to start with {settings}",
            got=f"{got}{last}",
            remedy=f"read its whole output in {_write_log(ending.output)}",
        )


def _no_interpreter(config: RewardConfig, error: OSError) -> CannotStart:
    got = f"{interpreter_of_torch(config.python)}: {error}"
    blame = partial(
        UserError,
        "reward.python",
        expected="a Python interpreter",
        got=got,
        remedy="set its full path",
    )
    return CannotStart(got, True, blame)


def _write_log(output: str) -> str:
    """Write `output` to a file that only the user can read, and return its path."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="segr1_sidecar_", suffix=".log", delete=False
    ) as file:
        file.write(output + "\n")
    return file.name


def _oom_kills() -> int:
    """Return the number of processes that the kernel has killed for lack of memory since boot."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)

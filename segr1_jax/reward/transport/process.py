"""One sidecar process: start it, shake hands, know why it died."""

import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import segr1_jax
from segr1_jax.errors import UserError
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.transport import protocol

POLL_MS = 200  # between two looks at a sidecar
# A longer pause between two looks means that the trainer itself was stopped or suspended.
LONGEST_TICK_S = 1.0
LAST_BYTES = 3000  # of its output, in messages
OUTPUT_BYTES = 1 << 16  # of its output, in a file
MESSAGE_CHARS = 200
STOP_TIMEOUT_S = 5.0
STACKS_S = 0.5  # how long a sidecar gets to write its stacks
STACKS_BYTES = 1 << 16
FROM_OUTSIDE = {
    -signal.SIGKILL,
    -signal.SIGTERM,
    -signal.SIGINT,
    -signal.SIGHUP,
}  # exit statuses that somebody else has caused
ASSETS = Path(__file__).parents[1] / "assets"


class CannotStart(RuntimeError):
    """A sidecar did not come up.

    `own_fault` is False where somebody else ended or stopped it; `blame` makes the error for the
    user where the configuration is the cause.
    """

    def __init__(self, got: str, own_fault: bool, blame: Callable[[], UserError]):
        super().__init__(got)
        self.own_fault, self.blame = own_fault, blame


class Ticks:
    """Time between two looks, without the time in which this process was itself suspended."""

    def __init__(self):
        self._looked_at = time.monotonic()

    def next(self) -> float:
        """Seconds since the last call, at most LONGEST_TICK_S."""
        now = time.monotonic()
        tick, self._looked_at = min(now - self._looked_at, LONGEST_TICK_S), now
        return tick


class Ending(NamedTuple):
    """How a sidecar ended: the status as `subprocess` gives it, its last lines, whether the kernel killed for want of memory meanwhile."""

    status: int
    output: str
    out_of_memory: bool = False

    @property
    def own_fault(self) -> bool:
        """False where somebody else ended it (a signal from outside): then the request in work is not to blame."""
        return self.status not in FROM_OUTSIDE or (
            self.status == -signal.SIGKILL and self.out_of_memory
        )

    def __str__(self) -> str:
        killer = ", the kernel killed for want of memory" if self.out_of_memory else ""
        last_lines = self.output[-LAST_BYTES:].strip()
        return f"exit status {self.status}{killer}, last lines:\n{last_lines or '(none)'}\n"


class Sidecar:
    """A running sidecar and our end of its socket. To be made by a thread that outlives it: the kernel kills it with that thread.

    `closing` ends the wait for a start that nobody needs any more.

    Raises:
        CannotStart: it ended, was stopped or did not greet in time.
    """

    def __init__(self, config: RewardConfig, region_fd: int, closing: Callable[[], bool]):
        self._config = config
        self._oom_kills = _oom_kills()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed in stop)
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [
                config.python or sys.executable,
                "-m",
                "segr1_jax.reward.sidecar.server",
                _settings(config, theirs.fileno(), region_fd),
            ]
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=self._stderr,
                    stderr=self._stderr,
                    pass_fds=(theirs.fileno(), region_fd),
                    env=_environment(config),
                )
            except OSError as error:
                self.socket.close()
                self._stderr.close()
                got = f"{command[0]}: {error}"
                blame = partial(
                    UserError,
                    "reward.python",
                    expected="a Python interpreter",
                    got=got,
                    remedy="set its full path",
                )
                raise CannotStart(got, True, blame) from error
        self._shake_hands(closing)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_stopped(self) -> bool:
        """True while somebody holds the process (SIGSTOP, a debugger)."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
        except FileNotFoundError:
            return False

    def stacks(self) -> str:
        """What every thread of it is doing, or why that cannot be told."""
        if self.is_stopped:
            return f"(process {self.pid} is stopped)"
        written = os.fstat(
            self._stderr.fileno()
        ).st_size  # not `seek`: both processes write at one shared position
        self._process.send_signal(signal.SIGUSR1)
        time.sleep(STACKS_S)
        return (
            os.pread(self._stderr.fileno(), STACKS_BYTES, written).decode(errors="replace")
            or "(nothing was written)"
        )

    def stop(self) -> Ending:
        """Close the socket, which ends the process, and say how it ended."""
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
        """The same for a process that may no longer answer."""
        self._process.kill()
        return self.stop()

    def _shake_hands(self, closing: Callable[[], bool]) -> None:
        self._wait_for_greeting(closing)
        try:
            hello = protocol.unpack_hello(self.socket.recv(protocol.RECORD_BYTES))
        except (OSError, protocol.ProtocolError) as error:
            ending = self.stop()
            raise self._cannot_start("", ending, ending.own_fault) from error
        self.socket.setblocking(False)
        ours = protocol.Hello(segr1_jax.__version__, protocol.SAM2_VERSION)
        self.encode_s = hello.encode_s
        if hello._replace(encode_s=0.0) != ours:
            self.stop()
            blame = partial(
                UserError,
                "reward sidecar",
                expected=f"versions {ours._asdict()}",
                got=f"{hello._asdict()}",
                remedy="install the same segr1_jax and the pinned sam2 for reward.python",
            )
            raise CannotStart(f"versions {hello._asdict()}", True, blame)

    def _wait_for_greeting(self, closing: Callable[[], bool]) -> None:
        config, ticks, waited_s, stopped_s = self._config, Ticks(), 0.0, 0.0
        poller = select.poll()
        poller.register(self.socket, select.POLLIN)
        while not poller.poll(POLL_MS):
            tick = ticks.next()
            waited_s += tick
            stopped_s = stopped_s + tick if self.is_stopped else 0.0
            if stopped_s > config.heartbeat_timeout_s or closing():
                raise self._cannot_start("a stopped process; ", self.kill(), own_fault=False)
            if waited_s > config.start_timeout_s:
                got = f"no greeting in {config.start_timeout_s:g} s (reward.start_timeout_s); "
                raise self._cannot_start(got, self.kill(), own_fault=True)

    def _cannot_start(self, got: str, ending: Ending, own_fault: bool) -> CannotStart:
        blame = partial(self._misconfigured, got, ending)
        return CannotStart(f"{got}{str(ending).strip()}", own_fault, blame)

    def _misconfigured(self, got: str, ending: Ending) -> UserError:
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
            remedy=f"its whole output is in {_keep(ending.output)}",
        )


def _keep(output: str) -> str:
    """Write `output` to a file of the user's alone, and return its path."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="segr1_sidecar_", suffix=".log", delete=False
    ) as file:
        file.write(output + "\n")
    return file.name


def _oom_kills() -> int:
    """How many processes of this machine the kernel has killed for want of memory since it was started."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def model_settings(config: RewardConfig) -> dict[str, str | bool]:
    """The model of the first sidecar. The nano SAM2 is always built without post-processing: only its single mask is trained."""
    nano = not config.sam2_config
    return {
        "config": str(ASSETS / "sam2_nano.yaml") if nano else config.sam2_config,
        "checkpoint": config.sam2_checkpoint
        or (str(ASSETS / "sam2_nano.safetensors") if nano else ""),
        "postprocessing": config.postprocessing and not nano,
        "device": config.devices[0],
        "dtype": config.dtype,
    }


def _settings(config: RewardConfig, socket_fd: int, region_fd: int) -> str:
    """The sidecar's command line."""
    return json.dumps(
        model_settings(config)
        | {
            "socket_fd": socket_fd,
            "region_fd": region_fd,
            "parent_pid": os.getpid(),
            "threads": config.threads,
            "memory_fraction": config.gpu_memory,
            "decode_batch": config.decode_batch,
            "max_side": config.max_side,
            "cache_bytes": config.cache_mb << 20,
            "host_cache_bytes": 0 if config.device == "cpu" else config.host_cache_mb << 20,
            "cache_dir": config.cache_dir,
            "cache_dir_bytes": int(config.cache_dir_gb * 1e9),
        }
    )


def _environment(config: RewardConfig) -> dict[str, str]:
    """Ours, with this package importable where the interpreter is ours; another one must have it installed or on PYTHONPATH."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(config.threads),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }  # the latter for determinism
    if not config.python:
        package = Path(importlib.util.find_spec("segr1_jax").origin).parents[1]
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, (str(package), os.environ.get("PYTHONPATH")))
        )
    return environment

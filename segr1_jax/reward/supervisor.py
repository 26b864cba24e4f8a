"""One sidecar process: start it, shake hands, know why it died."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import segr1_jax
from segr1_jax.errors import UserError
from segr1_jax.reward import protocol
from segr1_jax.reward.config import RewardConfig

STDERR_TAIL_BYTES = 3000
STOP_TIMEOUT_S = 5.0
ASSETS = Path(__file__).parent / "assets"


class Sidecar:
    """A running sidecar and our end of its socket. To be made by a thread that outlives it: the kernel kills it with that thread."""

    def __init__(self, config: RewardConfig, region_fd: int):
        self._config = config
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed in stop)
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [config.python or sys.executable, "-m", "segr1_jax.reward.sidecar", _settings(config, theirs.fileno(), region_fd)]
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
                raise UserError(
                    "reward.python", expected="a Python interpreter", got=f"{command[0]}: {error}", remedy="set its full path"
                ) from error
        self._shake_hands()

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> str:
        """Close the socket, which ends the process, and say how it ended: its exit status and the last that it wrote."""
        self.socket.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with self._stderr as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - STDERR_TAIL_BYTES))
            tail = file.read().decode(errors="replace").strip()
        return f"exit status {self._process.returncode}, last lines:\n{tail or '(none)'}\n"

    def kill(self) -> str:
        """The same for a process that may no longer answer."""
        self._process.kill()
        return self.stop()

    def _shake_hands(self) -> None:
        self.socket.settimeout(self._config.start_timeout_s)
        try:
            hello = protocol.unpack_hello(self.socket.recv(protocol.RECORD_BYTES))
        except (OSError, protocol.ProtocolError) as error:
            timed_out = isinstance(error, TimeoutError)
            got = f"no greeting in {self._config.start_timeout_s:g} s" if timed_out else "its end"
            raise self._cannot_start(got, self.kill() if timed_out else self.stop()) from error
        self.socket.setblocking(False)
        ours = protocol.Hello(segr1_jax.__version__, protocol.SAM2_VERSION)
        if hello != ours:
            self.stop()
            raise UserError(
                "reward sidecar",
                expected=f"versions {ours._asdict()}",
                got=f"{hello._asdict()}",
                remedy="install the same segr1_jax and the pinned sam2 for reward.python",
            )

    def _cannot_start(self, got: str, obituary: str) -> UserError:
        return UserError(
            "reward sidecar",
            expected=f"the SAM2 sidecar to come up ({self._config.python or sys.executable})",
            got=f"{got}; {obituary}",
            remedy="read its last lines above; check reward.python, reward.sam2_config, reward.sam2_checkpoint and reward.device",
        )


def _settings(config: RewardConfig, socket_fd: int, region_fd: int) -> str:
    """The sidecar's command line. The nano SAM2 is always built without post-processing: only its single mask is trained."""
    nano = not config.sam2_config
    return json.dumps(
        {
            "socket_fd": socket_fd,
            "region_fd": region_fd,
            "parent_pid": os.getpid(),
            "config": str(ASSETS / "sam2_nano.yaml") if nano else config.sam2_config,
            "checkpoint": config.sam2_checkpoint or (str(ASSETS / "sam2_nano.safetensors") if nano else ""),
            "postprocessing": config.postprocessing and not nano,
            "device": config.device,
            "dtype": config.dtype,
            "threads": config.threads,
            "max_side": config.max_side,
            "cache_bytes": config.cache_mb << 20,
        }
    )


def _environment(config: RewardConfig) -> dict[str, str]:
    """Ours, with this package importable where the interpreter is ours; another one must have it installed or on PYTHONPATH."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(config.threads), "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # the latter for determinism
    if not config.python:
        package = Path(importlib.util.find_spec("segr1_jax").origin).parents[1]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH"))))
    return environment

"""Two processes in one run directory.

The second is refused by name, and a dead one holds nothing.
"""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys

import pytest

from segr1_jax.errors import UserError
from segr1_jax.runtime.run_lock import locked

HOLD = """
import sys, time
from pathlib import Path
from segr1_jax.runtime.run_lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused(holder, tmp_path):
    who = f"process {holder.pid} on {socket.gethostname()}"
    with pytest.raises(UserError, match=who), locked(tmp_path):
        pass


def test_a_killed_process_holds_nothing(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with locked(tmp_path):
        assert f"process {os.getpid()}" in (tmp_path / "lock").read_text()
    with locked(tmp_path):
        pass


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path):
        pass
    assert "file system without locks" in capsys.readouterr().err

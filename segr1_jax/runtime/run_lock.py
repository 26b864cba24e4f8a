"""Lock of a run directory: a second process would delete metrics of the first."""

import contextlib
import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TextIO

from segr1_jax.errors import UserError

NAME = "lock"
# Errors of file systems that do not support locks.
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a run directory. The kernel releases it when the process ends in any way.

    `flock` works between the processes of one host on any local file system, and between hosts on
    NFS (v4, or v3 with lockd) and on Lustre mounted with `flock`. If the file system does not
    support locks, a warning is printed and the run continues.

    Raises:
        UserError: another process has the lock; names its host, process id and start.
    """
    with (directory / NAME).open("a+", encoding="utf-8") as file:
        _acquire(file, directory)
        _write(file, f"process {os.getpid()} on {socket.gethostname()} since {_now()}\n")
        try:
            yield
        finally:
            # The file is not deleted, because that could delete the lock of the next run.
            _write(file, "")


def _acquire(file: TextIO, directory: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        raise UserError(
            str(directory),
            expected="a run directory that no other process uses",
            got=holder,
            remedy="wait until it ends, or choose another run_dir",
        ) from None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        print(
            f"segr1: {directory} is on a file system without locks ({error.strerror}); make sure "
            "that no second process uses it",
            file=sys.stderr,
        )


def _write(file: TextIO, text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")

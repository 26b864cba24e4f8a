"""A deadline for code of the user that runs in this process.

A thread cannot be killed, so the code runs on the main thread and a signal interrupts it: SIGALRM
raises DeadlinePassed in it, whether it computes, loops or sleeps. Python handles signals between
two of its instructions. Code inside a C library that does not return, or that ignores the
exception, is therefore not interrupted; after GRACE_S more, faulthandler prints the stack of every
thread and ends the process. A run that hangs without a word would be worse, and the same command
resumes it.
"""

import contextlib
import faulthandler
import signal
import sys
from collections.abc import Iterator
from types import FrameType

GRACE_S = 30.0


class DeadlinePassed(BaseException):
    """The time of the code is over. Not an Exception, which the code may handle."""


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise DeadlinePassed in the block once `seconds` have passed. Main thread only."""
    before = signal.signal(signal.SIGALRM, _expire)
    faulthandler.dump_traceback_later(seconds + GRACE_S, exit=True, file=sys.__stderr__)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def _expire(number: int, frame: FrameType | None) -> None:
    raise DeadlinePassed

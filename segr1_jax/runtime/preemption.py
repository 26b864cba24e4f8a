"""Orderly stop at SIGTERM and Ctrl-C: the step in progress is saved before the run ends."""

import os
import signal
from types import FrameType

from segr1_jax.runtime.mesh import max_over_processes

SIGNALS = (signal.SIGTERM, signal.SIGINT)
RECEIVED = "segr1: %s received: the run saves its last step and ends; a second signal ends it now\n"


class Preemption:
    """Handler that records the first signal of SIGNALS instead of ending the process.

    SLURM, Kubernetes and spot machines send SIGTERM before SIGKILL. A second signal has its default
    effect. A signal that is ignored on entry remains ignored: a shell starts background jobs with
    SIGINT ignored. Use it as a context manager, in the main thread.
    """

    def __enter__(self) -> "Preemption":
        self._asked = 0
        self._before = {
            number: signal.getsignal(number)
            for number in SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._asked = number
        for each in self._before:
            default = signal.SIG_DFL if each == signal.SIGTERM else signal.default_int_handler
            signal.signal(each, default)
        # A handler may interrupt a print; os.write is safe in that case.
        os.write(2, (RECEIVED % signal.Signals(number).name).encode())

    def agreed(self) -> int:
        """Return the signal that any process has received, or 0, the same in every process.

        If one process stopped alone, the others would wait in a collective.
        """
        return max_over_processes(self._asked)

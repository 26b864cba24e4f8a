"""SIGTERM and Ctrl-C as requests to stop: the step in progress is saved before the run ends."""

import os
import signal
from types import FrameType

from segr1_jax.runtime.mesh import max_over_processes

SIGNALS = (signal.SIGTERM, signal.SIGINT)
NOTED = "segr1: %s noted: the run saves its last step and ends; a second signal ends it at once\n"


class Preemption:
    """Note the first signal of SIGNALS instead of letting it end the process.

    SLURM, Kubernetes and spot machines send SIGTERM ahead of SIGKILL. A second signal has its
    default effect. A signal that is ignored on entry stays ignored: a shell starts background
    jobs without SIGINT. Use as a context manager, in the main thread.
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
        # A handler may interrupt a print: os.write is safe there.
        os.write(2, (NOTED % signal.Signals(number).name).encode())

    def agreed(self) -> int:
        """Return, in every process, the signal that any process was sent; 0 without one.

        A process that stopped alone would leave the others waiting in a collective.
        """
        return max_over_processes(self._asked)

"""SIGTERM as a request to stop: the step in progress is finished and saved, then the run ends with the exit status of a preempted job."""

import signal

from segr1_jax.train.mesh import max_over_processes


class Preemption:
    """While active, SIGTERM (SLURM, Kubernetes and spot machines send it ahead of SIGKILL) is noted instead of ending the process.

    A second one ends it at once. Use as a context manager, in the main thread.
    """

    def __enter__(self) -> "Preemption":
        self._asked = False
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_: object) -> None:
        self._asked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def agreed(self) -> bool:
        """True in every process once any of them was asked: one that stopped alone would hang the others' collectives."""
        return bool(max_over_processes(int(self._asked)))

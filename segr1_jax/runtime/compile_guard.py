"""Guard against compilations after warm-up: an error names the function and the argument."""

import contextlib
import sys
import threading
from collections import Counter
from collections.abc import Iterator

from jax import monitoring

from segr1_jax.errors import UserError
from segr1_jax.runtime.compiled_functions import Watched, current_call, difference, signature
from segr1_jax.runtime.processes import is_first

SHOWN_S = 10.0  # a longer compilation is logged in a line of its own
COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
SHOWN_ARGUMENTS = 4


class CompileGuard:
    """Listener for the XLA compilations of this thread; those after `warm` are faults.

    The signature of a Watched function's call is recorded only if the call compiles something.
    """

    def __init__(self):
        self._faults: Counter[str] = Counter()
        self._warm = self._expected = False
        self._programs, self._seconds = 0, 0.0
        self._thread = threading.get_ident()
        monitoring.register_event_duration_secs_listener(self._listen)

    def warm(self) -> None:
        """Count every later compilation as a fault. Call it once every function has run.

        The first call logs the time of the compiler, or of the cache of compiled programs.
        """
        if not self._warm and is_first():
            what = f"{self._programs} programs compiled or read in {self._seconds:.0f} s"
            print(f"warm-up: {what}", file=sys.stderr, flush=True)
        self._warm = True

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """Allow compilations inside the block."""
        before, self._expected = self._expected, True
        try:
            yield
        finally:
            self._expected = before

    @property
    def after_warm(self) -> int:
        """The number of compilations after `warm`."""
        return self._faults.total()

    def check(self) -> None:
        """Raise UserError if anything was compiled after warm-up.

        The error names the functions and the arguments that changed.
        """
        if self._faults:
            raise UserError(
                "compilation",
                expected="no compilation after the first update and first evaluation",
                got="; ".join(
                    f"{what} ({count} times)" if count > 1 else what
                    for what, count in self._faults.items()
                ),
                remedy="keep shapes, dtypes and shardings constant; JAX_LOG_COMPILES=1 shows the "
                "place of a compilation",
            )

    def close(self) -> None:
        """Stop listening."""
        monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, seconds: float, fun_name: str = "?", **_) -> None:
        # Other threads, such as those that write a checkpoint, may compile at any time.
        if event != COMPILE_EVENT or threading.get_ident() != self._thread:
            return
        self._count(fun_name, seconds)
        call = current_call()
        cause = _explain(*call) if call and fun_name == f"jit({call[0].name})" else fun_name
        if self._warm and not self._expected:
            self._faults[cause] += 1

    def _count(self, name: str, seconds: float) -> None:
        if self._warm:
            return
        self._programs += 1
        self._seconds += seconds
        if seconds > SHOWN_S and is_first():
            print(f"compiled {name} in {seconds:.0f} s", file=sys.stderr, flush=True)


def _explain(function: Watched, arguments: tuple) -> str:
    """Record the signature of a compilation and return its changes from the nearest earlier one."""
    now = signature(function, arguments)
    differences = (difference(before, now) for before in function.compiled_with)
    changes = min(differences, key=len, default=None)
    function.compiled_with.append(now)
    return f"{function.name}: {_changes(changes)}"


def _changes(changes: list[str] | None) -> str:
    if changes is None:
        return "called for the first time"
    if not changes:
        return "no argument changed in shape, dtype or sharding"
    more = len(changes) - SHOWN_ARGUMENTS
    return ", ".join(changes[:SHOWN_ARGUMENTS]) + (
        f" and {more} more arguments" if more > 0 else ""
    )

"""Counts compilations, so that a step which recompiles after warm-up is an error and not a mystery."""

from jax import monitoring

from segr1_jax.errors import UserError

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class CompileGuard:
    """Counts XLA compilations of this process while active; those after `warm` are faults."""

    def __init__(self):
        self.total, self._at_warm = 0, None
        monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, _seconds: float, **_) -> None:
        if event == COMPILE_EVENT:
            self.total += 1

    def warm(self) -> None:
        """From now on every compilation counts as a fault (call once every function has run)."""
        if self._at_warm is None:
            self._at_warm = self.total

    @property
    def after_warm(self) -> int:
        return 0 if self._at_warm is None else self.total - self._at_warm

    def check(self) -> None:
        """Raise if anything was compiled after warm-up."""
        if self.after_warm:
            raise UserError(
                "compilation",
                expected="no compilation after the first update and first evaluation",
                got=f"{self.after_warm}",
                remedy="run with JAX_LOG_COMPILES=1 to see which function and shape",
            )

    def close(self) -> None:
        monitoring.unregister_event_duration_listener(self._listen)

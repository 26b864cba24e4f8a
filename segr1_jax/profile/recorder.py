"""Record the calls of a run: arguments, number, seconds of compilation and of a call."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax import monitoring

from segr1_jax.profile.model_flops import Work, work_of
from segr1_jax.rollout.sampler import Decoding
from segr1_jax.runtime.compile_guard import COMPILE_EVENT
from segr1_jax.runtime.compiled_functions import Watched, current_call


class ProfileEnded(Exception):
    """Ends the run after the requested steps, before its last evaluation and checkpoint."""


@dataclass
class Seen:
    """One jitted function.

    Attributes:
        arguments: those of its first call; arrays as shapes with shardings.
        programs: those of the first timed call of each program, by its static arguments.
        statics: the static arguments of each timed call.
        compile_seconds: of each compilation without tracing; short with a hit in the persistent
            cache.
        seconds: of each timed call, from ready arguments to a ready result.
        turns: iterations of the decoding loop in each timed call.
        work: tokens and pairs of each timed call, where they are counted.
    """

    function: Watched
    arguments: tuple = ()
    programs: dict[tuple, tuple] = field(default_factory=dict)
    statics: list[tuple] = field(default_factory=list)
    compile_seconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)


class Recorder:
    """Observer of runtime/compiled_functions.py that records calls and compilations.

    In the steps of `timed` it waits for every result, so that these steps are not asynchronous. In
    other steps it only records the arguments of first calls. It ends the run after the last timed
    step.
    """

    def __init__(self, timed: range):
        self.seen: dict[str, Seen] = {}
        self._timed, self._step = timed, 0

    def __enter__(self) -> "Recorder":
        monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        monitoring.unregister_event_duration_listener(self._listen)

    def begin_step(self, step: int) -> None:
        self._step = step
        if step >= self._timed.stop:
            raise ProfileEnded

    def call(self, function: Watched, arguments: tuple) -> Any:
        seen = self._of(function)
        if not seen.arguments:
            seen.arguments = jax.tree.map(abstract, arguments)
        if self._step not in self._timed:
            return function.jitted(*arguments)
        static = tuple(value for value in arguments if isinstance(value, int))
        seen.programs.setdefault(static, jax.tree.map(abstract, arguments))
        seen.statics.append(static)
        seconds, result = timed(function.jitted, arguments)
        seen.seconds.append(seconds)
        if isinstance(result, tuple) and isinstance(result[0], Decoding):
            before = next(each for each in arguments if isinstance(each, Decoding))
            seen.turns.append(int(result[0].step) - int(before.step))
        if (work := work_of(function.name, arguments, result)) is not None:
            seen.work.append(work)
        return result

    def _of(self, function: Watched) -> Seen:
        seen = self.seen.setdefault(function.name, Seen(function))
        seen.function = function
        return seen

    def _listen(self, event: str, seconds: float, fun_name: str = "", **_) -> None:
        call = current_call()
        if event == COMPILE_EVENT and call and fun_name == f"jit({call[0].name})":
            self._of(call[0]).compile_seconds.append(seconds)


def timed(function: Callable, arguments: tuple) -> tuple[float, Any]:
    """Time one call once its arguments are ready; return (seconds, result)."""
    jax.block_until_ready(arguments)
    began = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return time.perf_counter() - began, result


def abstract(value: Any) -> Any:
    """Return shape, dtype and committed sharding of an array; anything else unchanged."""
    if not isinstance(value, jax.Array | np.ndarray):
        return value
    bound = isinstance(value, jax.Array) and value.committed
    return jax.ShapeDtypeStruct(
        value.shape, value.dtype, sharding=value.sharding if bound else None
    )

"""Jitted functions that know their name and arguments, for the compile guard and for profiles."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Generic, NamedTuple, ParamSpec, Protocol, TypeVar, runtime_checkable

import jax

P = ParamSpec("P")
R = TypeVar("R")

Signature = dict[str, "Leaf"]  # path of an array among the arguments -> what it looks like


class Leaf(NamedTuple):
    """The parts of an argument that decide about a compilation: its type and its sharding."""

    type: str
    sharding: str

    def __str__(self) -> str:
        return f"{self.type} {self.sharding}".strip()


class Watched(Generic[P, R]):
    """A jitted function of the run; a call sets one context variable more than a plain one."""

    def __init__(self, name: str, function: Callable[P, R], **jit_options: Any):
        def named(*arguments):
            return function(*arguments)

        # The name appears in traces, compiled texts and the compiler's events.
        named.__name__ = named.__qualname__ = name
        self.name, self.parameters = name, list(inspect.signature(function).parameters)
        self.jitted = jax.jit(named, **jit_options)
        self.compiled_with: list[Signature] = []  # by every compilation that a CompileGuard saw

    def __call__(self, *arguments: P.args, **named: P.kwargs) -> R:
        if named:
            raise TypeError(f"{self.name} takes positional arguments, got {', '.join(named)}")
        running = _call.set((self, arguments))
        try:
            observer = _observer.get()
            return observer.call(self, arguments) if observer else self.jitted(*arguments)
        finally:
            _call.reset(running)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self.jitted, attribute)  # lower, trace, eval_shape


@runtime_checkable
class Observer(Protocol):
    """Something that is notified of the steps of a run and makes its calls (segr1_jax/profile)."""

    def begin_step(self, step: int) -> None: ...

    def call(self, function: Watched, arguments: tuple) -> Any: ...


_call: ContextVar[tuple[Watched, tuple] | None] = ContextVar("call", default=None)
_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)


def call_at_hand() -> tuple[Watched, tuple] | None:
    """Return the watched function that this thread is calling, with its arguments."""
    return _call.get()


@contextlib.contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Let `observer` make the calls inside the block."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


def announce_step(step: int) -> None:
    """Notify the observer, if there is one, that a step begins."""
    if observer := _observer.get():
        observer.begin_step(step)


def signature(function: Watched, arguments: tuple) -> Signature:
    """Return type and sharding of each array argument, by a path that begins with its parameter."""
    leaves = jax.tree_util.tree_flatten_with_path(arguments)[0]
    return {
        function.parameters[path[0].idx] + jax.tree_util.keystr(path[1:]): _leaf(value)
        for path, value in leaves
    }


def difference(old: Signature, new: Signature) -> list[str]:
    """Return `path: old -> new` for every array that differs."""
    paths = [path for path in {**old, **new} if old.get(path) != new.get(path)]
    return [f"{path}: {old.get(path, 'nothing')} -> {new.get(path, 'nothing')}" for path in paths]


def _leaf(value: Any) -> Leaf:
    type_ = jax.typeof(value)
    weak = " (weak)" if getattr(type_, "weak_type", False) else ""
    placed = getattr(value, "sharding", None)
    return Leaf(
        f"{type_.dtype}{list(type_.shape)}{weak}", "" if placed is None else _placement(placed)
    )


def _placement(sharding: jax.sharding.Sharding) -> str:
    devices = len(sharding.device_set)
    return (
        f"over {sharding.spec} of {devices}"
        if isinstance(sharding, jax.sharding.NamedSharding)
        else f"on {devices}"
    )

"""Jitted functions with a name and recorded arguments, for the compile guard and for profiles."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Generic, NamedTuple, ParamSpec, Protocol, TypeVar, runtime_checkable

import jax

P = ParamSpec("P")
R = TypeVar("R")

Signature = dict[str, "Leaf"]  # by the path of an array among the arguments


class Leaf(NamedTuple):
    """Properties of an array that select a compiled program: its type and its sharding."""

    type: str
    sharding: str

    def __str__(self) -> str:
        return f"{self.type} {self.sharding}".strip()


class Watched(Generic[P, R]):
    """Jitted function of the run.

    A call sets one context variable; apart from that, it is a plain call of the jitted function.
    """

    def __init__(self, name: str, function: Callable[P, R], **jit_options: Any):
        def named(*arguments):
            return function(*arguments)

        # Traces, compiled texts and the compiler's events show this name.
        named.__name__ = named.__qualname__ = name
        self.name = name
        self.parameters = list(inspect.signature(function).parameters)
        self.jitted = jax.jit(named, **jit_options)
        self.compiled_with: list[Signature] = []  # of the compilations that a CompileGuard saw

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
        # For lower, trace and eval_shape.
        return getattr(self.jitted, attribute)


@runtime_checkable
class Observer(Protocol):
    """Observer of a run, which is notified of its steps and makes its calls (segr1_jax/profile)."""

    def begin_step(self, step: int) -> None:
        """Note that a step begins."""
        ...

    def call(self, function: Watched, arguments: tuple) -> Any:
        """Call the function and return its result."""
        ...


_call: ContextVar[tuple[Watched, tuple] | None] = ContextVar("call", default=None)
_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)


def current_call() -> tuple[Watched, tuple] | None:
    """Return the watched function that this thread is calling, with its arguments, or None."""
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
    """Return the Leaf of each array among the arguments.

    Keys are paths that begin with the name of the parameter.
    """
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
    if isinstance(value, int):
        return Leaf(type=f"static {value}", sharding="")
    type_ = jax.typeof(value)
    weak = " (weak)" if getattr(type_, "weak_type", False) else ""
    sharding = getattr(value, "sharding", None)
    return Leaf(
        type=f"{type_.dtype}{list(type_.shape)}{weak}",
        sharding="" if sharding is None else _placement(sharding),
    )


def _placement(sharding: jax.sharding.Sharding) -> str:
    devices = len(sharding.device_set)
    return (
        f"over {sharding.spec} of {devices}"
        if isinstance(sharding, jax.sharding.NamedSharding)
        else f"on {devices}"
    )

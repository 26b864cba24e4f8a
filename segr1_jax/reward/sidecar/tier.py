"""Cache by content hash under a budget in bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar, runtime_checkable


@runtime_checkable
class Sized(Protocol):
    """Value that knows how many bytes it holds, such as an array."""

    @property
    def nbytes(self) -> int:
        """The number of bytes."""
        ...


Held = TypeVar("Held", bound=Sized)


class Tier(Generic[Held]):
    """Values under a budget in bytes; the least recently put one is removed first."""

    def __init__(self, budget: int):
        self._budget, self._held = budget, 0
        self._values: OrderedDict[bytes, Held] = OrderedDict()

    def take(self, digest: bytes) -> Held | None:
        """Remove and return a value, or return None."""
        value = self._values.pop(digest, None)
        self._held -= 0 if value is None else value.nbytes
        return value

    def put(self, digest: bytes, value: Held) -> list[tuple[bytes, Held]]:
        """Add a value and return those removed to make room for it.

        A value that exceeds the whole budget is itself removed.
        """
        self._values[digest] = value
        self._held += value.nbytes
        removed = []
        while self._held > self._budget:
            digest, old = self._values.popitem(last=False)
            self._held -= old.nbytes
            removed.append((digest, old))
        return removed

    def empty(self) -> list[tuple[bytes, Held]]:
        """Remove and return everything."""
        removed, self._held = list(self._values.items()), 0
        self._values.clear()
        return removed

"""Base of the objects of the Python interface that hold a process."""

from abc import abstractmethod
from contextlib import AbstractContextManager
from types import TracebackType


class Closing(AbstractContextManager):
    """Context manager that calls `close` at its end."""

    @abstractmethod
    def close(self) -> None:
        """Free what the object holds. A second call does nothing."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

"""A disk without space, for tests."""

import contextlib
import resource
from collections.abc import Iterator

SMALL_FILE = 20_000  # bytes


@contextlib.contextmanager
def no_room_for_more_than(size: int) -> Iterator[None]:
    """Let every file of this process end at `size` bytes, as on a disk without space."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

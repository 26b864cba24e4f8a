"""The trainer's side of the shared region: which block lies where, and when its place may be used again."""

import bisect
import mmap
from collections import OrderedDict
from collections.abc import Hashable

from segr1_jax.reward.transport.protocol import HEADER_BYTES, checksum

IDLE_BYTES = 64 << 20  # images sent ahead wait here for their scores
STEP = 64  # blocks start at multiples of a cache line


class Arena:
    """Places blocks in a region of fixed size, first fit.

    A block with a key is shared: `put` with the same key again finds it. After its last release it stays, unused, until room is
    needed or `idle_bytes` of such blocks lie about; the longest unused goes first.
    """

    def __init__(self, region: mmap.mmap, idle_bytes: int = IDLE_BYTES):
        self._region = region
        self._idle_room = idle_bytes
        self._free = [
            (HEADER_BYTES, len(region) - HEADER_BYTES)
        ]  # (offset, length), by offset, never adjacent
        self._length: dict[int, int] = {}
        self._users: dict[int, int] = {}
        self._sum: dict[int, int] = {}
        self._by_key: dict[Hashable, int] = {}
        self._key: dict[int, Hashable] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    def put(self, data, key: Hashable = None) -> int | None:
        """The offset of a block with these bytes, held until `release`; None while there is no room."""
        if key is not None and (offset := self._by_key.get(key)) is not None:
            self._wake(offset)
            self._users[offset] += 1
            return offset
        view = memoryview(data).cast("B")
        offset = self.reserve(len(view))
        if offset is None:
            return None
        self._region[offset : offset + len(view)] = view
        self._sum[offset] = checksum(view)
        if key is not None:
            self._by_key[key], self._key[offset] = offset, key
        return offset

    def checksum(self, offset: int) -> int:
        """Of the bytes that `put` was given for this block."""
        return self._sum[offset]

    def write_anew(self, offset: int, data) -> None:
        """Write a held block's bytes again: the other side found them damaged."""
        view = memoryview(data).cast("B")
        self._region[offset : offset + len(view)] = view

    def reserve(self, size: int) -> int | None:
        """The offset of `size` bytes to be written by the other side, held until `release`; None while there is no room."""
        length = max(STEP, -(-size // STEP) * STEP)
        while (offset := self._take(length)) is None:
            if not self._idle:
                return None
            self._drop_oldest_idle()
        self._length[offset], self._users[offset] = length, 1
        return offset

    def release(self, offset: int) -> None:
        """One user less."""
        self._users[offset] -= 1
        if self._users[offset]:
            return
        if offset not in self._key:
            self._give_back(offset)
            return
        self._idle[offset] = None
        self._idle_room -= self._length[offset]
        while self._idle_room < 0:
            self._drop_oldest_idle()

    def _wake(self, offset: int) -> None:
        if offset in self._idle:
            del self._idle[offset]
            self._idle_room += self._length[offset]

    def _drop_oldest_idle(self) -> None:
        offset = next(iter(self._idle))
        self._wake(offset)
        self._give_back(offset)

    def _take(self, length: int) -> int | None:
        for index, (offset, room) in enumerate(self._free):
            if room >= length:
                self._free[index : index + 1] = (
                    [(offset + length, room - length)] if room > length else []
                )
                return offset
        return None

    def _give_back(self, offset: int) -> None:
        length = self._length.pop(offset)
        del self._users[offset]
        self._sum.pop(offset, None)
        if (key := self._key.pop(offset, None)) is not None:
            del self._by_key[key]
        index = bisect.bisect(self._free, (offset,))
        if index < len(self._free) and self._free[index][0] == offset + length:
            length += self._free.pop(index)[1]
        if index and sum(self._free[index - 1]) == offset:
            index -= 1
            before = self._free.pop(index)
            offset, length = before[0], length + before[1]
        self._free.insert(index, (offset, length))

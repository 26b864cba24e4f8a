"""Allocator of the shared region, on the trainer's side: offset and lifetime of every block."""

import bisect
import mmap
from collections import OrderedDict
from collections.abc import Hashable

from segr1_jax.reward.transport.protocol import HEADER_BYTES, checksum

# Room for images that were sent ahead and wait for their scores.
IDLE_BYTES = 64 << 20
# Blocks start at multiples of a cache line.
STEP = 64


class Arena:
    """Allocator of blocks in a region of fixed size, first fit.

    A block with a key is shared: another `put` with the same key returns the same block. After its
    last release such a block becomes idle: its bytes stay until the room is needed, or until idle
    blocks take more than `idle_bytes`; the block that has been idle longest is freed first.
    """

    # Layout. The region is the header, then used, idle and free ranges in any order, without gaps:
    #
    #     0        64                                                        len(region)
    #     | header | used (image) | free | idle (image) | used (mask) | free ... |
    #
    # A range is identified by its offset; the length of a block is a multiple of STEP.
    #   used   in _length and _users; in _sum if `put` wrote it; in _key and _by_key if it has a key
    #   idle   as a used block with a key, with 0 users; also in _idle, longest idle first
    #   free   only in _free, sorted by offset; adjacent free ranges are merged at once
    # The sidecar sees none of this: a request names the offsets that it reads and writes.

    def __init__(self, region: mmap.mmap, idle_bytes: int = IDLE_BYTES):
        self._region = region
        self._idle_room = idle_bytes  # bytes that idle blocks may still take
        self._free = [(HEADER_BYTES, len(region) - HEADER_BYTES)]  # (offset, length)
        self._length: dict[int, int] = {}
        self._users: dict[int, int] = {}
        self._sum: dict[int, int] = {}
        self._by_key: dict[Hashable, int] = {}
        self._key: dict[int, Hashable] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    def put(self, data, key: Hashable = None) -> int | None:
        """Return the offset of a block with these bytes, or None if there is no room.

        The block is held until `release`.
        """
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
        """Return the checksum of the bytes that `put` wrote to this block."""
        return self._sum[offset]

    def rewrite(self, offset: int, data) -> None:
        """Write the bytes of a held block again, after the sidecar found them damaged."""
        view = memoryview(data).cast("B")
        self._region[offset : offset + len(view)] = view

    def reserve(self, size: int) -> int | None:
        """Return the offset of `size` bytes for the sidecar to write, or None if there is no room.

        The block is held until `release`.
        """
        length = max(STEP, -(-size // STEP) * STEP)
        while (offset := self._take(length)) is None:
            if not self._idle:
                return None
            self._drop_oldest_idle()
        self._length[offset], self._users[offset] = length, 1
        return offset

    def release(self, offset: int) -> None:
        """Remove one user of a block; the last one frees it, or makes it idle if it has a key."""
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
                remainder = [(offset + length, room - length)] if room > length else []
                self._free[index : index + 1] = remainder
                return offset
        return None

    def _give_back(self, offset: int) -> None:
        length = self._length.pop(offset)
        del self._users[offset]
        self._sum.pop(offset, None)
        if (key := self._key.pop(offset, None)) is not None:
            del self._by_key[key]
        index = bisect.bisect(self._free, (offset,))
        # Merge with the free range that follows, then with the one that precedes.
        if index < len(self._free) and self._free[index][0] == offset + length:
            length += self._free.pop(index)[1]
        if index and sum(self._free[index - 1]) == offset:
            index -= 1
            before = self._free.pop(index)
            offset, length = before[0], length + before[1]
        self._free.insert(index, (offset, length))

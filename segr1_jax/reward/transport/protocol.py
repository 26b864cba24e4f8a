"""Protocol between the trainer and the SAM2 sidecar.

The module needs the standard library only, so each side may run in its own interpreter.

    trainer (reward/client.py)                       sidecar (reward/sidecar/server.py)
    --------------------------                       ----------------------------------
    socketpair, SOCK_SEQPACKET   <---- hello ----    versions, once                start_timeout_s
    one fixed record a message   --- request --->    kind, sequence number, offsets of blocks
                                 <---- reply ----    sequence number, scores       request_timeout_s

    memfd region, mapped by both processes
      0        64
      +--------+------------+-------------+---------------+-------------+
      | header | image      | mask        | prompts       | result mask |  ...
      +--------+------------+-------------+---------------+-------------+
       two      H W 3 uint8  TH TW uint8   prompts_block   H W bits
       uint64

The header has the sequence number of the request in progress and the number of heartbeats, which
the sidecar increments while it runs (heartbeat_timeout_s). Blocks start at multiples of 64 bytes,
in any order; the trainer places them (shared_memory.py).

The trainer enforces the three deadlines (deadlines.py, process.py): it kills a sidecar that misses
one and sends its requests to the next sidecar.

The region is an anonymous file, inherited as a descriptor and sealed: it can neither shrink under a
reader nor grow, and nothing remains in /dev/shm after either process dies. A block does not change
while a request that names it is unanswered, so a restarted sidecar gets the same records again.

Each record has a checksum of every block that it names, and the reader of the block verifies it.
The sidecar answers a request for a damaged block with `damaged`; the trainer then rewrites the
blocks and sends the request again.

Nothing is pickled. Every length, offset and enum from the other side is checked (ProtocolError).
"""

from __future__ import annotations

import enum
import fcntl
import mmap
import os
import struct
import zlib
from typing import NamedTuple

PROTOCOL_VERSION = 5
MAGIC = 0x5E612
# Two uint64: the sequence number of the request in progress (0 when idle) and the heartbeats. The
# remainder of the first cache line is unused.
HEADER_BYTES = 64
# Address space only: a memfd allocates memory for the pages that have been written.
REGION_BYTES = 1 << 30
MAX_SIDE = 1 << 15
MAX_PROMPTS = 256
# Hello and request fit into RECORD_BYTES. A reply has a note as well, so readers of requests and
# replies use a buffer of twice this size.
RECORD_BYTES = 128
NOTE_BYTES = 120

_HELLO = struct.Struct("<II32s32sd")
_REQUEST = struct.Struct("<IIQ16s" + "Q" * 4 + "I" * 9 + "16s")
_REPLY = struct.Struct(f"<IIQddddII{NOTE_BYTES}s")
_WORD = struct.Struct("<Q")
_WORKING_AT, _BEATS_AT = 0, _WORD.size  # offsets in the header


class ProtocolError(ValueError):
    """A record or block from the other side violates the protocol."""


class Kind(enum.IntEnum):
    """Kind of work that a request asks for."""

    ENCODE = 1
    SCORE = 2


class Hello(NamedTuple):
    """First record of a sidecar: the versions, which must match those of the trainer.

    `encode_s` is the duration of its first encode.
    """

    package: str
    sam2: str
    protocol: int = PROTOCOL_VERSION
    encode_s: float = 0.0


class Request(NamedTuple):
    """One request. Offsets are in bytes from the start of the region.

    `digest` and `mask_digest` are content hashes of image and mask; `mask` is the ground truth. The
    result mask has the size of the image; `result_at` is 0 if the mask is not wanted.
    """

    kind: Kind
    seq: int
    digest: bytes
    image_at: int
    mask_at: int
    prompts_at: int
    result_at: int
    height: int
    width: int
    mask_height: int
    mask_width: int
    prompts: int
    prompts_bytes: int
    image_sum: int = 0
    mask_sum: int = 0
    prompts_sum: int = 0
    mask_digest: bytes = bytes(16)


class Reply(NamedTuple):
    """Reply to one request, with scores in [0, 1].

    `encode_ms` is the time of the encode (0: the embedding was cached), `decode_ms` the remainder.
    `retries` counts retries with a smaller batch after the GPU ran out of memory. `damaged` means
    that a block did not match its checksum and nothing was scored. `note` is a line for the log.
    """

    seq: int
    iou: float
    s_measure: float
    encode_ms: float
    decode_ms: float
    retries: int = 0
    result_sum: int = 0
    damaged: bool = False
    note: str = ""


def create_region(size: int = REGION_BYTES) -> tuple[int, mmap.mmap]:
    """Return the descriptor and the mapping of a new sealed memfd of `size` bytes."""
    # CLOEXEC: a child process inherits the descriptor only through an explicit pass_fds.
    fd = os.memfd_create("segr1-reward", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd, mmap.mmap(fd, size)


def open_region(fd: int) -> mmap.mmap:
    """Map an inherited region after checking that it is sealed against shrinking.

    Access beyond the end of a file that has shrunk kills the process with SIGBUS.
    """
    seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    require(seals & fcntl.F_SEAL_SHRINK, "the shared region is not sealed against shrinking")
    size = os.fstat(fd).st_size
    require(size > HEADER_BYTES, f"the shared region has {size} bytes")
    return mmap.mmap(fd, size)


def set_working(region: mmap.mmap, seq: int) -> None:
    """Store the request in progress, so that the trainer knows it if the sidecar dies (sidecar)."""
    _WORD.pack_into(region, _WORKING_AT, seq)


def get_working(region: mmap.mmap) -> int:
    """Return the sequence number of the request in progress, or 0 (trainer)."""
    return _WORD.unpack_from(region, _WORKING_AT)[0]


def beat(region: mmap.mmap) -> None:
    """Increment the number of heartbeats (sidecar)."""
    _WORD.pack_into(region, _BEATS_AT, get_beats(region) + 1)


def get_beats(region: mmap.mmap) -> int:
    """Return the number of heartbeats; only its changes matter (trainer)."""
    return _WORD.unpack_from(region, _BEATS_AT)[0]


def checksum(block) -> int:
    """Return the CRC-32 of the bytes of a block: 4.5 ms for a photo of 6 megapixels."""
    return zlib.crc32(block)


def pack_hello(hello: Hello) -> bytes:
    """Return the record of a hello."""
    package, sam2 = hello.package.encode(), hello.sam2.encode()
    return _HELLO.pack(MAGIC, hello.protocol, package, sam2, hello.encode_s)


def unpack_hello(record: bytes) -> Hello:
    """Return the hello of a record, or raise ProtocolError."""
    magic, protocol, package, sam2, encode_s = _unpack(_HELLO, record, "hello")
    require(magic == MAGIC, f"hello begins with {magic:#x}")
    require(0 <= encode_s < float("inf"), f"hello with an encode of {encode_s} s")
    try:
        return Hello(
            package.rstrip(b"\0").decode("ascii"),
            sam2.rstrip(b"\0").decode("ascii"),
            protocol,
            encode_s,
        )
    except UnicodeDecodeError as error:
        raise ProtocolError(
            f"hello with a version that is not ASCII: {package!r}, {sam2!r}"
        ) from error


def pack_request(request: Request) -> bytes:
    """Return the record of a request."""
    kind, *rest = request
    return _REQUEST.pack(MAGIC, kind, *rest)


def unpack_request(record: bytes, region_bytes: int) -> Request:
    """Return the request of a record.

    Raises:
        ProtocolError: a field is out of range, or a block is not inside a region of `region_bytes`.
    """
    magic, kind, *rest = _unpack(_REQUEST, record, "request")
    require(magic == MAGIC, f"request begins with {magic:#x}")
    require(kind in Kind.__members__.values(), f"request of unknown kind {kind}")
    request = Request(Kind(kind), *rest)
    require(request.seq > 0, "request without sequence number")
    height, width = request.height, request.width
    require(0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE, f"image of {height}x{width}")
    _require_inside(request.image_at, height * width * 3, region_bytes, "image")
    if request.kind is Kind.SCORE:
        mask_height, mask_width = request.mask_height, request.mask_width
        sides = f"truth of {mask_height}x{mask_width}"
        require(0 < mask_height <= MAX_SIDE and 0 < mask_width <= MAX_SIDE, sides)
        _require_inside(request.mask_at, mask_height * mask_width, region_bytes, "mask")
        require(
            request.prompts <= MAX_PROMPTS, f"{request.prompts} prompts, more than {MAX_PROMPTS}"
        )
        _require_inside(request.prompts_at, request.prompts_bytes, region_bytes, "prompts")
        if request.result_at:
            packed = packed_bytes(height, width)
            _require_inside(request.result_at, packed, region_bytes, "result mask")
    return request


def pack_reply(reply: Reply) -> bytes:
    """Return the record of a reply. Its note is cut at NOTE_BYTES."""
    seq, *figures, retries, result_sum, damaged, note = reply
    text = note.encode()[:NOTE_BYTES]
    return _REPLY.pack(MAGIC, retries, seq, *figures, result_sum, damaged, text)


def unpack_reply(record: bytes) -> Reply:
    """Return the reply of a record, or raise ProtocolError.

    Characters of the note that are not printable ASCII are replaced.
    """
    magic, retries, *rest, result_sum, damaged, note = _unpack(_REPLY, record, "reply")
    require(magic == MAGIC, f"reply begins with {magic:#x}")
    require(damaged in (0, 1), f"reply with a damage flag of {damaged}")
    text = note.rstrip(b"\0").decode("ascii", "replace")
    text = "".join(c if c.isprintable() else "?" for c in text)
    reply = Reply(*rest, retries, result_sum, bool(damaged), text)
    for name in ("iou", "s_measure"):
        require(0 <= getattr(reply, name) <= 1 + 1e-9, f"reply with {name} {getattr(reply, name)}")
    for name in ("encode_ms", "decode_ms"):
        require(
            0 <= getattr(reply, name) < float("inf"), f"reply with {name} {getattr(reply, name)}"
        )
    return reply


def packed_bytes(height: int, width: int) -> int:
    """Return the number of bytes of a bit-packed mask."""
    return (height * width + 7) // 8


def require(condition, message: str) -> None:
    """Raise ProtocolError with `message` unless the condition holds."""
    if not condition:
        raise ProtocolError(message)


def _unpack(layout: struct.Struct, record: bytes, name: str) -> tuple:
    require(len(record) == layout.size, f"{name} of {len(record)} bytes, not {layout.size}")
    return layout.unpack(record)


def _require_inside(offset: int, length: int, region_bytes: int, name: str) -> None:
    inside = offset >= HEADER_BYTES and offset + length <= region_bytes
    require(inside, f"{name} at {offset} of {length} bytes is outside the region of {region_bytes}")

"""What the trainer and the SAM2 sidecar say to each other (stdlib and numpy only, so that either side may have its own interpreter).

    trainer (reward.client)                                          sidecar (reward.sidecar)
    -----------------------                                          ------------------------
    socketpair, SOCK_SEQPACKET         <---- hello --------------     versions, once          (start_timeout_s)
    one fixed record per message       ----- request ----------->     kind, sequence number, where to read and write
                                       <---- reply --------------     sequence number, scores, timings  (request_timeout_s)
    memfd region, mapped by both
      +--------+-----------+-----------+-------------+-----------+
      | header | image     | mask      | prompts ... | reply mask|    blocks at 64-byte steps, placed by the trainer (reward.arena)
      +--------+-----------+-----------+-------------+-----------+
       seq in   H W 3 uint8  TH TW uint8 see below     H W bits
       work,
       beats    counted up by the sidecar while it lives                                        (heartbeat_timeout_s)

The three deadlines are the trainer's (reward.keeper): a sidecar that misses one is killed and its requests go to the next.
The region is an anonymous file inherited as a descriptor and sealed: it can neither shrink under a reader nor grow, and nothing is
left behind in /dev/shm whoever dies. A block stays untouched while a request that names it is unanswered, so a restarted sidecar gets
the same records again. Every block has a checksum in the record that names it, and its reader verifies it: the sidecar answers a
request with a damaged block with `damaged`, and the trainer writes the blocks anew and asks again.
Nothing is pickled; every length, offset and enum from the other side is checked here (ProtocolError).

Prompts block, little-endian: per prompt uint32 has_box, uint32 K, then float32[4] box if has_box, float32[K, 2] points, int32[K] labels.
"""

from __future__ import annotations

import enum
import fcntl
import mmap
import os
import struct
import zlib
from typing import NamedTuple

import numpy as np

PROTOCOL_VERSION = 4
MAGIC = 0x5E612
SAM2_VERSION = "1.1.0"
HEADER_BYTES = 64  # two words: sequence number of the request in work, 0 when idle; heartbeats
REGION_BYTES = 1 << 30  # address space: a memfd takes memory only for pages once written
MAX_SIDE = 1 << 15
MAX_PROMPTS = 256
MAX_POINTS = 256
RECORD_BYTES = 128  # a reply has a note besides; readers take twice as much
NOTE_BYTES = 120

_HELLO = struct.Struct("<II32s32sd")
_REQUEST = struct.Struct("<IIQ16s" + "Q" * 4 + "I" * 9)
_REPLY = struct.Struct(f"<IIQddddII{NOTE_BYTES}s")
_WORD = struct.Struct("<Q")
_WORKING_AT, _BEATS_AT = 0, _WORD.size


class ProtocolError(ValueError):
    """The other side sent something that this protocol cannot mean."""


class Kind(enum.IntEnum):
    """What a request asks for."""

    ENCODE = 1
    SCORE = 2


class WirePrompt(NamedTuple):
    """One SAM2 call in native pixels: box (4,) float32 or None, points (K, 2) float32, labels (K,) int32 of 0 and 1."""

    box: np.ndarray | None
    points: np.ndarray
    labels: np.ndarray


class Hello(NamedTuple):
    """First record of a sidecar: the versions that must match the trainer's.

    `encode_s` is how long its first encode took.
    """

    package: str
    sam2: str
    protocol: int = PROTOCOL_VERSION
    encode_s: float = 0.0


class Request(NamedTuple):
    """One job. Offsets are bytes into the region; `mask` is the truth, the result has the image's size; result_at is 0 where no mask is
    wanted.
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


class Reply(NamedTuple):
    """One answer: scores in [0, 1]; milliseconds spent encoding (0: the embedding was cached) and on the rest.

    `retries` counts how often the GPU's memory did not suffice and less was tried at a time.
    `damaged`: a block did not have its checksum, so nothing was scored. `note` is a line for the log.
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
    """A sealed memfd of `size` bytes, mapped; the descriptor is inheritable only through an explicit pass_fds."""
    fd = os.memfd_create("segr1-reward", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd, mmap.mmap(fd, size)


def open_region(fd: int) -> mmap.mmap:
    """Map an inherited region, after checking that it is sealed against shrinking."""
    seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    _require(seals & fcntl.F_SEAL_SHRINK, "the shared region is not sealed against shrinking")
    size = os.fstat(fd).st_size
    _require(size > HEADER_BYTES, f"the shared region has {size} bytes")
    return mmap.mmap(fd, size)


def set_working(region: mmap.mmap, seq: int) -> None:
    """Sidecar: note which request is in work, so that a death can be laid to it."""
    _WORD.pack_into(region, _WORKING_AT, seq)


def get_working(region: mmap.mmap) -> int:
    """Trainer: the request that was in work, or 0."""
    return _WORD.unpack_from(region, _WORKING_AT)[0]


def beat(region: mmap.mmap) -> None:
    """Sidecar: one sign of life more."""
    _WORD.pack_into(region, _BEATS_AT, get_beats(region) + 1)


def get_beats(region: mmap.mmap) -> int:
    """Trainer: signs of life so far; any change counts, the number itself means nothing."""
    return _WORD.unpack_from(region, _BEATS_AT)[0]


def checksum(block) -> int:
    """CRC-32 of a block's bytes: 4.5 ms for a photo of 6 megapixels."""
    return zlib.crc32(block)


def pack_hello(hello: Hello) -> bytes:
    package, sam2 = hello.package.encode(), hello.sam2.encode()
    return _HELLO.pack(MAGIC, hello.protocol, package, sam2, hello.encode_s)


def unpack_hello(record: bytes) -> Hello:
    magic, protocol, package, sam2, encode_s = _unpack(_HELLO, record, "hello")
    _require(magic == MAGIC, f"hello begins with {magic:#x}")
    _require(0 <= encode_s < float("inf"), f"hello with an encode of {encode_s} s")
    try:
        return Hello(
            package.rstrip(b"\0").decode("ascii"),
            sam2.rstrip(b"\0").decode("ascii"),
            protocol,
            encode_s,
        )
    except UnicodeDecodeError as error:
        raise ProtocolError(
            f"hello holds a version that is no text: {package!r}, {sam2!r}"
        ) from error


def pack_request(request: Request) -> bytes:
    kind, *rest = request
    return _REQUEST.pack(MAGIC, kind, *rest)


def unpack_request(record: bytes, region_bytes: int) -> Request:
    """A request whose every block lies inside a region of that many bytes."""
    magic, kind, *rest = _unpack(_REQUEST, record, "request")
    _require(magic == MAGIC, f"request begins with {magic:#x}")
    _require(kind in Kind.__members__.values(), f"request of unknown kind {kind}")
    request = Request(Kind(kind), *rest)
    _require(request.seq > 0, "request without sequence number")
    height, width = request.height, request.width
    _require(0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE, f"image of {height}x{width}")
    _require_inside(request.image_at, height * width * 3, region_bytes, "image")
    if request.kind is Kind.SCORE:
        mask_height, mask_width = request.mask_height, request.mask_width
        sides = f"truth of {mask_height}x{mask_width}"
        _require(0 < mask_height <= MAX_SIDE and 0 < mask_width <= MAX_SIDE, sides)
        _require_inside(request.mask_at, mask_height * mask_width, region_bytes, "mask")
        _require(
            request.prompts <= MAX_PROMPTS, f"{request.prompts} prompts, more than {MAX_PROMPTS}"
        )
        _require_inside(request.prompts_at, request.prompts_bytes, region_bytes, "prompts")
        if request.result_at:
            packed = packed_bytes(height, width)
            _require_inside(request.result_at, packed, region_bytes, "result mask")
    return request


def pack_reply(reply: Reply) -> bytes:
    seq, *figures, retries, result_sum, damaged, note = reply
    text = note.encode()[:NOTE_BYTES]
    return _REPLY.pack(MAGIC, retries, seq, *figures, result_sum, damaged, text)


def unpack_reply(record: bytes) -> Reply:
    magic, retries, *rest, result_sum, damaged, note = _unpack(_REPLY, record, "reply")
    _require(magic == MAGIC, f"reply begins with {magic:#x}")
    _require(damaged in (0, 1), f"reply with a damage flag of {damaged}")
    text = note.rstrip(b"\0").decode("ascii", "replace")
    text = "".join(c if c.isprintable() else "?" for c in text)
    reply = Reply(*rest, retries, result_sum, bool(damaged), text)
    for name in ("iou", "s_measure"):
        _require(0 <= getattr(reply, name) <= 1 + 1e-9, f"reply with {name} {getattr(reply, name)}")
    for name in ("encode_ms", "decode_ms"):
        _require(
            0 <= getattr(reply, name) < float("inf"), f"reply with {name} {getattr(reply, name)}"
        )
    return reply


def pack_prompts(prompts) -> bytes:
    """The prompts block of anything with `box`, `points` and `labels`."""
    parts = []
    for prompt in prompts:
        parts.append(struct.pack("<II", prompt.box is not None, len(prompt.labels)))
        if prompt.box is not None:
            parts.append(np.asarray(prompt.box, "<f4").tobytes())
        parts += (
            np.asarray(prompt.points, "<f4").tobytes(),
            np.asarray(prompt.labels, "<i4").tobytes(),
        )
    return b"".join(parts)


def unpack_prompts(block: bytes, count: int) -> list[WirePrompt]:
    """`count` prompts that fill the block exactly; coordinates finite, labels 0 or 1."""
    prompts, at = [], 0
    for _ in range(count):
        _require(at + 8 <= len(block), "prompts block ends early")
        has_box, points = struct.unpack_from("<II", block, at)
        _require(
            has_box <= 1 and points <= MAX_POINTS and has_box + points > 0,
            f"prompt with box flag {has_box} and {points} points",
        )
        floats = 4 * has_box + 2 * points
        end = at + 8 + 4 * (floats + points)
        _require(end <= len(block), "prompts block ends early")
        numbers = np.frombuffer(block, "<f4", floats, at + 8)
        labels = np.frombuffer(block, "<i4", points, at + 8 + 4 * floats)
        _require(np.isfinite(numbers).all(), "prompt with a coordinate that is no number")
        _require(((labels == 0) | (labels == 1)).all(), "prompt with a label other than 0 and 1")
        prompts.append(
            WirePrompt(
                numbers[:4] if has_box else None, numbers[4 * has_box :].reshape(-1, 2), labels
            )
        )
        at = end
    _require(at == len(block), f"{len(block) - at} bytes after the last prompt")
    return prompts


def packed_bytes(height: int, width: int) -> int:
    """Bytes of a bit-packed mask."""
    return (height * width + 7) // 8


def _unpack(layout: struct.Struct, record: bytes, name: str) -> tuple:
    _require(len(record) == layout.size, f"{name} of {len(record)} bytes, not {layout.size}")
    return layout.unpack(record)


def _require_inside(offset: int, length: int, region_bytes: int, name: str) -> None:
    inside = offset >= HEADER_BYTES and offset + length <= region_bytes
    _require(
        inside, f"{name} at {offset} of {length} bytes lies outside the region of {region_bytes}"
    )


def _require(good, message: str) -> None:
    if not good:
        raise ProtocolError(message)

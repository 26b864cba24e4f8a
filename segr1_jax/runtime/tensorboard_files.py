"""Truncation of TensorBoard event files after a step.

An event file is a sequence of TFRecords, little-endian (tensorflow/core/lib/io/record_writer.h):

    uint64 length | uint32 CRC of it | Event message of that length | uint32 CRC of the message

Kept records are copied byte for byte.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from segr1_jax.common.files import write_atomically

HEADER = struct.Struct("<QI")
FOOTER_BYTES = 4


def cut_events(directory: Path, last_step: int) -> int | None:
    """Remove the records after `last_step` from every event file of `directory`.

    An incomplete last record is removed too. A `last_step` of 0 deletes the files. Returns the
    highest step that is left, None where no file is.
    """
    left = None
    for path in sorted(directory.glob("events.out.tfevents.*")):
        if last_step == 0:
            path.unlink()
            continue
        kept = [pair for pair in _records(path.read_bytes()) if pair[1] <= last_step]
        write_atomically(path, b"".join(record for record, _ in kept))
        left = max(step for step in (left, 0, *(step for _, step in kept)) if step is not None)
    return left


def _records(content: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the complete records of one event file, each with its step."""
    from tensorboardX.proto.event_pb2 import Event

    start = 0
    while start + HEADER.size <= len(content):
        length, _ = HEADER.unpack_from(content, start)
        body = start + HEADER.size
        end = body + length + FOOTER_BYTES
        if end > len(content):
            return
        yield content[start:end], Event.FromString(content[body : body + length]).step
        start = end

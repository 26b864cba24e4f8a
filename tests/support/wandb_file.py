"""Reader of the file that wandb records a run in (`run-ID.wandb`).

The file is a LevelDB log: 7 bytes of header, then blocks of 32 KiB of chunks. A chunk is
uint32 CRC | uint16 length | uint8 type | bytes, little-endian, of the types 1 whole record,
2 first, 3 middle, 4 last part of one. A record is a protobuf message of wandb's `Record`.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, FILE_HEADER = 32768, 7
CHUNK = struct.Struct("<IHB")
WHOLE, LAST = 1, 4


def _messages(content: bytes) -> Iterator[bytes]:
    at, message = FILE_HEADER, b""
    while at + CHUNK.size <= len(content):
        if BLOCK - at % BLOCK < CHUNK.size:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = CHUNK.unpack_from(content, at)
        at += CHUNK.size
        message += content[at : at + length]
        at += length
        if kind in (WHOLE, LAST):
            yield message
            message = b""


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
    """Return the configuration, the history rows, and the exit code of a run.

    Keys of a nested value, such as those of an image, are joined by slashes.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    config, rows, exit_code = {}, [], None
    for message in _messages(path.read_bytes()):
        record = Record.FromString(message)
        if record.HasField("run"):
            config |= _values(record.run.config.update)
        elif record.HasField("history"):
            rows.append(_values(record.history.item))
        elif record.HasField("exit"):
            exit_code = record.exit.exit_code
    return config, rows, exit_code


def _values(items) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}

"""The prompts block of a request (stdlib and numpy only, as in protocol.py).

Layout, little-endian, the prompts one after the other without padding:

    uint32 has_box | uint32 K | float32[4] box, if has_box | float32[K, 2] points | int32[K] labels
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from segr1_jax.reward.transport.protocol import require

MAX_POINTS = 256  # of one prompt

_HEAD = struct.Struct("<II")  # has_box, K
_NUMBER_BYTES = 4  # a float32 coordinate or an int32 label


class WirePrompt(NamedTuple):
    """One SAM2 call in native pixels.

    `box` is (4,) float32 or None, `points` is (K, 2) float32, `labels` is (K,) int32 of 0 and 1.
    """

    box: np.ndarray | None
    points: np.ndarray
    labels: np.ndarray


def pack_prompts(prompts) -> bytes:
    """Return the prompts block of objects that have `box`, `points` and `labels`."""
    parts = []
    for prompt in prompts:
        parts.append(_HEAD.pack(prompt.box is not None, len(prompt.labels)))
        if prompt.box is not None:
            parts.append(np.asarray(prompt.box, "<f4").tobytes())
        parts.append(np.asarray(prompt.points, "<f4").tobytes())
        parts.append(np.asarray(prompt.labels, "<i4").tobytes())
    return b"".join(parts)


def unpack_prompts(block: bytes, count: int) -> list[WirePrompt]:
    """Return the `count` prompts of a block.

    Raises:
        ProtocolError: the prompts do not fill the block exactly, a coordinate is not finite, or a
            label is neither 0 nor 1.
    """
    prompts = []
    at = 0
    for _ in range(count):
        require(at + _HEAD.size <= len(block), "prompts block ends early")
        has_box, points = _HEAD.unpack_from(block, at)
        require(
            has_box <= 1 and points <= MAX_POINTS and has_box + points > 0,
            f"prompt with box flag {has_box} and {points} points",
        )
        # Box and points are adjacent and both float32: they are read as one array.
        floats = 4 * has_box + 2 * points
        numbers_at = at + _HEAD.size
        labels_at = numbers_at + _NUMBER_BYTES * floats
        end = labels_at + _NUMBER_BYTES * points
        require(end <= len(block), "prompts block ends early")
        numbers = np.frombuffer(block, "<f4", floats, numbers_at)
        labels = np.frombuffer(block, "<i4", points, labels_at)
        require(np.isfinite(numbers).all(), "prompt with a coordinate that is not finite")
        require(((labels == 0) | (labels == 1)).all(), "prompt with a label other than 0 and 1")
        box = numbers[:4] if has_box else None
        prompts.append(WirePrompt(box, numbers[4 * has_box :].reshape(-1, 2), labels))
        at = end
    require(at == len(block), f"{len(block) - at} bytes after the last prompt")
    return prompts

"""Resize of a prediction to the size of its ground truth, as saliency tools do.

PySODEvalToolkit calls cv2.resize(prediction, INTER_LINEAR) on 8 bits. This module reproduces that
arithmetic bit for bit: taps at half-pixel centres in float32, weights of 11 bits, four bits dropped
between the two axes. Some pixels of a resized mask are within one gray level of the threshold, so
exact interpolation would give another mask. The module needs numpy only, because neither the
sidecar nor the evaluation has OpenCV.

Shape legend: H W given size; h w wanted size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

# jaxtyping may be absent in the interpreter of the sidecar.
if TYPE_CHECKING:
    from jaxtyping import Bool, UInt8

# The mask of a gray map (0 to 255) is the set of brighter pixels.
HALF = 127
WEIGHT_BITS = 11


def resize_map(map_HW: UInt8[np.ndarray, "H W"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Resize a gray map of 0 to 255 to another (height, width), bilinearly.

    A map of the wanted size is returned itself.

    Example:
        >>> resize_map(np.array([[0, 255]], np.uint8), (1, 4))
        array([[  0,  64, 191, 255]], dtype=uint8)
    """
    if map_HW.shape == tuple(size):
        return map_HW
    rows, columns = (_taps(new, old) for new, old in zip(size, map_HW.shape, strict=True))
    left_Hw, right_Hw = map_HW[:, columns.low], map_HW[:, columns.high]
    # Fixed point as in OpenCV: 8 bits of gray and 11 of weight, less 4, give 15 bits per row. The
    # second axis adds 11 bits of weight; 16 are dropped per tap and 2, rounded, from the sum.
    across_Hw = (left_Hw * columns.low_weight + right_Hw * columns.high_weight) >> 4
    upper_hw = (across_Hw[rows.low] * rows.low_weight[:, None]) >> 16
    lower_hw = (across_Hw[rows.high] * rows.high_weight[:, None]) >> 16
    return ((upper_hw + lower_hw + 2) >> 2).astype(np.uint8)


def resize_mask(mask_HW: Bool[np.ndarray, "H W"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Resize a mask to another (height, width): the pixels above HALF of its resized gray map."""
    if mask_HW.shape == tuple(size):
        return mask_HW
    return resize_map(mask_HW.astype(np.uint8) * np.uint8(255), size) > HALF


class _Taps(NamedTuple):
    """The two source indices of each output index along one axis, with their weights (int32)."""

    low: np.ndarray
    high: np.ndarray
    low_weight: np.ndarray
    high_weight: np.ndarray


def _taps(new: int, old: int) -> _Taps:
    centres = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    low = np.floor(centres).astype(np.int32)
    share = centres - low
    low_weight, high_weight = (
        np.rint(part * (1 << WEIGHT_BITS)).astype(np.int32) for part in (1 - share, share)
    )
    return _Taps(low.clip(0), (low + 1).clip(0, old - 1), low_weight, high_weight)

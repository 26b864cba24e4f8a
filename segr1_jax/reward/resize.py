"""The one rule for a prediction and a truth of different sizes: the prediction is resized to the truth, as saliency tools do.

PySODEvalToolkit calls cv2.resize(prediction, INTER_LINEAR) on 8 bits. This is its arithmetic, to the bit: taps at half-pixel centres
in float32, weights of 11 bits, four bits dropped between the axes. Some pixels of a resized mask lie within a grey level of the
threshold, so that exact interpolation would decide otherwise. Numpy only, as whoever scores has no OpenCV.

Shape legend: H W given; h w wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # the sidecar's interpreter need not have jaxtyping
    from jaxtyping import Bool, UInt8

HALF = 127  # of 255: a grey map's mask is what is brighter
WEIGHT_BITS = 11


def resize_map(map_HW: UInt8[np.ndarray, "H W"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """A grey map of 0 to 255 at another (height, width), bilinearly; itself where it has that size.

    Example:
        >>> resize_map(np.array([[0, 255]], np.uint8), (1, 4))
        array([[  0,  64, 191, 255]], dtype=uint8)
    """
    if map_HW.shape == tuple(size):
        return map_HW
    rows, columns = (_taps(new, old) for new, old in zip(size, map_HW.shape, strict=True))
    left_Hw, right_Hw = map_HW[:, columns.low], map_HW[:, columns.high]
    across_Hw = (left_Hw * columns.low_weight + right_Hw * columns.high_weight) >> 4
    upper_hw = (across_Hw[rows.low] * rows.low_weight[:, None]) >> 16
    lower_hw = (across_Hw[rows.high] * rows.high_weight[:, None]) >> 16
    return ((upper_hw + lower_hw + 2) >> 2).astype(np.uint8)


def resize_mask(mask_HW: Bool[np.ndarray, "H W"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """A mask at another (height, width): what is brighter than half in its resized map."""
    if mask_HW.shape == tuple(size):
        return mask_HW
    return resize_map(mask_HW.astype(np.uint8) * np.uint8(255), size) > HALF


class _Taps(NamedTuple):
    """For each wanted place of one axis: the places before and behind it, with their weights (int32)."""

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

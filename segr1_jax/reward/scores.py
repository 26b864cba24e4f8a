"""The mask terms of the reward for binary masks: IoU and S-measure (numpy only).

S-measure (Fan et al., ICCV 2017, "Structure-measure") needs only pixel counts when both masks are
binary: the centroid of the ground truth splits the image into four quadrants, and each term follows
from the numbers of pixels, foreground pixels and common pixels of each quadrant.

Edge cases, by hand (p prediction, g ground truth; pysodmetrics agrees wherever it is finite):

    g empty                        S = 1 - mean(p)
    g full                         S = mean(p)
    quadrant without pixels        weight 0, contributes 0 (the centroid is in the last row or
                                   column; pysodmetrics returns NaN)
    quadrant of one pixel          variances 0, so 1 like any quadrant where p and g are constant
    quadrant, p and g constant     1, also when they differ (the SSIM formula is 0/0 there)
    quadrant, covariance 0         0 unless both variances, or both means, are 0
    fore- or background of 1 pixel standard deviation 0: 1 if predicted right, else 0

    Worked: 2x2, g = [[1,0],[0,0]], p the same. Centroid (0, 0): quadrants of one pixel each,
    region 1. Object: foreground 1 of weight 1/4, background 1 of weight 3/4. S = 1.
    With p = all ones: region 1; foreground 1/4, background 0: S = (1/4 + 1) / 2 = 0.625.

Shape legend: H W side lengths of a mask; h w the wanted side lengths.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

# jaxtyping may be absent in the interpreter of the sidecar.
if TYPE_CHECKING:
    from jaxtyping import Bool

EPS = float(np.spacing(1))  # as in the authors' code
ALPHA = 0.5  # weight of the object term


def iou(mask: Bool[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"]) -> float:
    """Return intersection over union; 1 for two empty masks."""
    mask, truth = _clean(mask), _clean(truth)
    common = _count(mask & truth)
    union = _count(mask) + _count(truth) - common
    return common / union if union else 1.0


def s_measure(mask: Bool[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"]) -> float:
    """Return S = 0.5 object + 0.5 region of a prediction against a ground truth, in [0, 1].

    Both masks are binary. The edge cases are listed at the top of this module.
    """
    mask, truth = _clean(mask), _clean(truth)
    pixels, row_counts = truth.size, _ones(truth, axis=1)
    wanted = int(row_counts.sum())
    if wanted == 0:
        return 1 - _count(mask) / pixels
    if wanted == pixels:
        return _count(mask) / pixels
    quadrants = _quadrants(mask, truth, row_counts)
    predicted = sum(part.predicted for part in quadrants)
    common = sum(part.common for part in quadrants)
    both_background = pixels - predicted - wanted + common
    foreground = _object(common, wanted) * wanted / pixels
    background = _object(both_background, pixels - wanted) * (1 - wanted / pixels)
    region = sum(_ssim(part) * part.pixels / pixels for part in quadrants)
    return max(0.0, ALPHA * (foreground + background) + (1 - ALPHA) * region)


def resize_nearest(mask: Bool[np.ndarray, "H W"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Resize a mask to another (height, width); each pixel copies the source pixel at its center.

    Integer arithmetic makes the choice of the source pixel exact.
    """
    if mask.shape == tuple(size):
        return mask
    rows, columns = (
        (np.arange(n) * 2 + 1) * old // (2 * n) for n, old in zip(size, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]


def capped_size(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Scale (height, width) so that the long side is at most `max_side`."""
    scale = min(1.0, max_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


class _Part(NamedTuple):
    """Pixel counts of a quadrant: all, predicted, wanted (in the truth), common to both masks."""

    pixels: int
    predicted: int
    wanted: int
    common: int


def _clean(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Return the mask with every True stored as the byte 1.

    The counts below add bytes, and True in a 1-bit image read by Pillow is the byte 255.
    """
    ones = mask.view(np.uint8)
    return mask if ones.max(initial=0) <= 1 else ones != 0


def _count(mask: Bool[np.ndarray, "..."]) -> int:
    return int(np.count_nonzero(mask))


def _object(right: int, pixels: int) -> float:
    """Return the similarity of a region of constant truth: `right` of its `pixels` are correct."""
    mean = right / pixels
    deviation = math.sqrt(right * (pixels - right) / (pixels * (pixels - 1))) if pixels > 1 else 0.0
    return 2 * mean / (mean * mean + 1 + deviation + EPS)


def _quadrants(mask, truth, row_counts) -> list[_Part]:
    """Return the quadrants around the centroid of the ground truth that have pixels.

    Reading the arrays dominates the time of the score, so each one is read once or twice only.
    """
    split_y = _split(row_counts)
    halves = [(rows, _ones(truth[rows], axis=0)) for rows in (slice(split_y), slice(split_y, None))]
    split_x = _split(sum(column_counts for _, column_counts in halves))
    parts = []
    for rows, column_counts in halves:
        common = mask[rows] & truth[rows]
        for columns in (slice(split_x), slice(split_x, None)):
            predicted = mask[rows, columns]
            wanted = int(column_counts[columns].sum())
            parts.append(
                _Part(predicted.size, _count(predicted), wanted, _count(common[:, columns]))
            )
    return [part for part in parts if part.pixels]


def _ones(mask: Bool[np.ndarray, "H W"], axis: int) -> np.ndarray:
    # Adding bytes into the narrowest integer that holds a side is several times as fast as adding
    # bools into int64.
    return mask.view(np.uint8).sum(axis, dtype=np.min_scalar_type(max(mask.shape)))


def _split(counts) -> int:
    """Return the length of the first part: one past the mean index.

    The mean is rounded half to even, as in the authors' code.
    """
    return int(np.round(np.arange(len(counts)) @ counts / counts.sum())) + 1


def _ssim(part: _Part) -> float:
    """Return SSIM without stabilisers, from counts.

    Integer numerators keep the two tests for zero exact.
    """
    pixels, predicted, wanted, common = part
    if pixels == 1:
        return 1.0
    scale = pixels * (pixels - 1)
    mean_p, mean_g = predicted / pixels, wanted / pixels
    variances = (predicted * (pixels - predicted) + wanted * (pixels - wanted)) / scale
    covariance = (pixels * common - predicted * wanted) / scale
    above, below = 4 * mean_p * mean_g * covariance, (mean_p**2 + mean_g**2) * variances
    if above != 0:
        return above / (below + EPS)
    return 1.0 if below == 0 else 0.0

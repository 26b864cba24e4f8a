"""The mask terms of the reward for binary masks: IoU and S-measure (numpy only).

S-measure (Fan et al., ICCV 2017, "Structure-measure") needs nothing but pixel counts when both masks are binary: the ground truth's
centroid splits the image into four quadrants, and each term follows from the pixels, foreground pixels and common pixels per part.

Edge cases, by hand (p prediction, g ground truth; pysodmetrics agrees wherever it is finite):

    g empty                        S = 1 - mean(p)
    g full                         S = mean(p)
    quadrant without pixels        its weight is 0 and so is its share (centroid on the last row or column; pysodmetrics: NaN)
    quadrant of one pixel          variances 0, so 1 like any quadrant where p and g are constant
    quadrant, p and g constant     1, also when they differ (the SSIM formula is 0/0 there)
    quadrant, covariance 0         0 unless both variances, or both means, are 0
    fore- or background of 1 pixel standard deviation 0: 1 if predicted right, else 0

    Worked: 2x2, g = [[1,0],[0,0]], p the same. Centroid (0, 0): quadrants of one pixel each, region 1. Object: foreground 1 of weight
    1/4, background 1 of weight 3/4. S = 1. With p = all ones: region 1; foreground 1/4, background 0: S = (1/4 + 1) / 2 = 0.625.

Legend: H W mask side lengths.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # the sidecar's interpreter need not have jaxtyping
    from jaxtyping import Bool

EPS = float(np.spacing(1))  # as in the authors' code
ALPHA = 0.5  # share of the object term


def iou(mask: Bool[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"]) -> float:
    """Intersection over union; two empty masks agree: 1."""
    mask, truth = _clean(mask), _clean(truth)
    common = _count(mask & truth)
    union = _count(mask) + _count(truth) - common
    return common / union if union else 1.0


def s_measure(mask: Bool[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"]) -> float:
    """S = 0.5 object + 0.5 region of a binary prediction against a binary ground truth, in [0, 1]; the module has the edge cases."""
    mask, truth = _clean(mask), _clean(truth)
    pixels, row_counts = truth.size, _ones(truth, axis=1)
    wanted = int(row_counts.sum())
    if wanted == 0:
        return 1 - _count(mask) / pixels
    if wanted == pixels:
        return _count(mask) / pixels
    quadrants = _quadrants(mask, truth, row_counts)
    predicted, hit = (
        sum(part.predicted for part in quadrants),
        sum(part.common for part in quadrants),
    )
    kept_out = pixels - predicted - wanted + hit
    foreground = _object(hit, wanted) * wanted / pixels
    background = _object(kept_out, pixels - wanted) * (1 - wanted / pixels)
    region = sum(_ssim(part) * part.pixels / pixels for part in quadrants)
    return max(0.0, ALPHA * (foreground + background) + (1 - ALPHA) * region)


def resize_nearest(mask: Bool[np.ndarray, "H W"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The mask at another (height, width), each pixel from the source pixel under its centre."""
    if mask.shape == tuple(size):
        return mask
    rows, columns = (
        (np.arange(n) * 2 + 1) * old // (2 * n) for n, old in zip(size, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]


def capped_size(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """(height, width) scaled so that the long side is at most `max_side`."""
    scale = min(1.0, max_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


class _Part(NamedTuple):
    """Counts of a quadrant: its pixels, those predicted, those wanted, those both."""

    pixels: int
    predicted: int
    wanted: int
    common: int


def _clean(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """True as the byte 1. numpy's counts add bytes, and the True of a 1-bit image read by Pillow is 255."""
    ones = mask.view(np.uint8)
    return mask if ones.max(initial=0) <= 1 else ones != 0


def _count(mask: Bool[np.ndarray, "..."]) -> int:
    return int(np.count_nonzero(mask))


def _object(right: int, pixels: int) -> float:
    """Similarity of a region whose ground truth is constant: `right` of its `pixels` are predicted so."""
    mean = right / pixels
    deviation = math.sqrt(right * (pixels - right) / (pixels * (pixels - 1))) if pixels > 1 else 0.0
    return 2 * mean / (mean * mean + 1 + deviation + EPS)


def _quadrants(mask, truth, row_counts) -> list[_Part]:
    """The quadrants that have pixels, around the ground truth's centroid. Each array is read once or twice: this takes the time."""
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
    # Bytes added to the narrowest integer that holds a side: several times as fast as bools added to int64.
    return mask.view(np.uint8).sum(axis, dtype=np.min_scalar_type(max(mask.shape)))


def _split(counts) -> int:
    """Where the first part ends: behind the mean index, rounded half to even as the authors' code does."""
    return int(np.round(np.arange(len(counts)) @ counts / counts.sum())) + 1


def _ssim(part: _Part) -> float:
    """SSIM without stabilisers, from counts; integer numerators keep its two zero tests exact."""
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

"""Figures of rows of samples, the best constant box, and the S-measure of gray maps.

Shape legend: H W native pixels; h w pixels of a quadrant; K pixels of a region; N masks;
E = GRID + 1 grid lines.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from segr1_jax.reward.scores import ALPHA, EPS
from segr1_jax.types import ParseStatus

TERMS = ("iou", "s_measure", "mae")
# The best constant box is searched to 1 / GRID of a side, exhaustively in moves of COARSE cells.
GRID = 64
COARSE = 8


def own_figure(term: str) -> str:
    """Return the name of the figure of an own term of the reward (reward/terms.py).

    Example:
        >>> own_figure("few_points")
        'reward/few_points'
    """
    return f"reward/{term}"


@dataclass(frozen=True)
class EvalRow:
    """One scored answer.

    Without a parsed answer there is no mask, and every term has its worst value: IoU 0, S 0, MAE 1.
    `own` holds the own terms of the reward: 0 without a parsed answer, NaN where one has failed.

    Example:
        >>> EvalRow(3, name="cat", text="A cat.", parse=ParseStatus.MISSING_THINK).iou
        0.0
    """

    example_id: int
    name: str
    text: str
    parse: ParseStatus
    iou: float = 0.0
    s_measure: float = 0.0
    mae: float = 1.0
    own: Mapping[str, float] = field(default_factory=dict)


def aggregate(rows: Sequence[EvalRow]) -> dict[str, float]:
    """Return means and standard errors (`iou`, `iou_se`, ...), the format rate, and counts.

    Counts are the number of rows and the rows per parse status. Invalid answers enter with their
    worst values and are never left out, but own terms that failed are. With fewer than two rows the
    standard error is NaN.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("aggregate needs at least one row")
    valid = np.array([row.parse is ParseStatus.OK for row in rows], np.float64)
    figures = {
        "count": float(len(rows)),
        "format": float(valid.mean()),
        "format_se": standard_error(valid),
    }
    for term in TERMS:
        values = np.array([getattr(row, term) for row in rows], np.float64)
        figures |= {term: float(values.mean()), f"{term}_se": standard_error(values)}
    for name in rows[0].own:
        values = np.array([row.own[name] for row in rows], np.float64)
        values = values[~np.isnan(values)]
        mean = float(values.mean()) if values.size else math.nan
        figures |= {own_figure(name): mean, f"{own_figure(name)}_se": standard_error(values)}
    counts = Counter(row.parse for row in rows)
    return figures | {f"parse/{status.value}": float(counts[status]) for status in ParseStatus}


def standard_error(values_N: Float[np.ndarray, " N"]) -> float:
    """Return std(ddof=1) / sqrt(N), the standard error of the mean; NaN below two values."""
    return (
        float(np.std(values_N, ddof=1) / math.sqrt(len(values_N)))
        if len(values_N) > 1
        else math.nan
    )


def mean_absolute_error(
    prediction_HW: Bool[np.ndarray, "H W"], truth_HW: Bool[np.ndarray, "H W"]
) -> float:
    """Return the MAE of binary masks: the share of pixels that differ (Perazzi et al. 2012)."""
    return float(np.mean(prediction_HW != truth_HW))


def soft_s_measure(
    prediction_HW: Float[np.ndarray, "H W"], truth_HW: Bool[np.ndarray, "H W"]
) -> float:
    """Return the S-measure (Fan et al. 2017, alpha 0.5) of a gray map in [0, 1].

    Edge cases are in the table of `reward.scores`, whose `s_measure` returns the same for masks,
    much faster.
    """
    share = float(np.mean(truth_HW))
    if share in (0, 1):
        return float(1 - np.mean(prediction_HW) if share == 0 else np.mean(prediction_HW))
    by_object = share * _object_similarity(prediction_HW[truth_HW]) + (
        1 - share
    ) * _object_similarity(1 - prediction_HW[~truth_HW])
    split_y, split_x = (int(np.round(np.mean(axis))) + 1 for axis in np.nonzero(truth_HW))
    quadrants = itertools.product(
        (slice(split_y), slice(split_y, None)), (slice(split_x), slice(split_x, None))
    )
    parts = [(prediction_HW[quadrant], truth_HW[quadrant]) for quadrant in quadrants]
    by_region = sum(
        _ssim(prediction_hw, truth_hw) * truth_hw.size / truth_HW.size
        for prediction_hw, truth_hw in parts
        if truth_hw.size
    )
    return max(0.0, ALPHA * by_object + (1 - ALPHA) * by_region)


def _object_similarity(values_K: Float[np.ndarray, " K"]) -> float:
    mean = float(np.mean(values_K))
    deviation = float(np.std(values_K, ddof=1)) if len(values_K) > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + deviation + EPS)


def _ssim(prediction_hw: Float[np.ndarray, "h w"], truth_hw: Bool[np.ndarray, "h w"]) -> float:
    mean_p, mean_g, freedom = np.mean(prediction_hw), np.mean(truth_hw), max(1, truth_hw.size - 1)
    off_p, off_g = prediction_hw - mean_p, truth_hw - mean_g
    above = 4 * mean_p * mean_g * np.sum(off_p * off_g) / freedom
    below = (mean_p**2 + mean_g**2) * (np.sum(off_p**2) + np.sum(off_g**2)) / freedom
    if above != 0:
        return float(above / (below + EPS))
    return 1.0 if below == 0 else 0.0


def best_constant_box(
    masks: Iterable[Bool[np.ndarray, "_H _W"]],
) -> tuple[float, float, float, float]:
    """Return the box with the largest mean IoU between filled box and mask.

    It is (x1, y1, x2, y2) in shares of width and height.

    A policy that ignores the image can reach it. Every box on a coarse grid is tried, then the
    sides of the best one are moved by halving steps until no move helps. Masks may differ in size.
    """
    tables_NEE = np.stack([_integral_on_grid(mask) for mask in masks])
    lines = range(0, GRID + 1, COARSE)
    spans = list(itertools.combinations(lines, 2))
    best = max(
        ((x1, y1, x2, y2) for x1, x2 in spans for y1, y2 in spans),
        key=lambda box: _mean_iou(tables_NEE, box),
    )
    step = COARSE // 2
    while step:
        better = max(_moves(best, step), key=lambda box: _mean_iou(tables_NEE, box))
        if _mean_iou(tables_NEE, better) > _mean_iou(tables_NEE, best):
            best = better
        else:
            step //= 2
    return tuple(side / GRID for side in best)


def _moves(box: tuple[int, ...], step: int) -> list[tuple[int, ...]]:
    """Return `box` with one or more sides moved by `step`, where inside the grid and not empty."""
    moved = (
        tuple(side + delta for side, delta in zip(box, deltas, strict=True))
        for deltas in itertools.product((-step, 0, step), repeat=4)
    )
    return [
        (x1, y1, x2, y2)
        for x1, y1, x2, y2 in moved
        if 0 <= x1 < x2 <= GRID and 0 <= y1 < y2 <= GRID
    ]


def _mean_iou(tables_NEE: Float[np.ndarray, "N E E"], box: tuple[int, ...]) -> float:
    x1, y1, x2, y2 = box
    inside_N = (
        tables_NEE[:, y2, x2]
        - tables_NEE[:, y1, x2]
        - tables_NEE[:, y2, x1]
        + tables_NEE[:, y1, x1]
    )
    union_N = (x2 - x1) * (y2 - y1) / GRID**2 + tables_NEE[:, -1, -1] - inside_N
    return float(np.mean(inside_N / union_N))


def _integral_on_grid(mask_HW: Bool[np.ndarray, "H W"]) -> Float[np.ndarray, "E E"]:
    """Return the mask area above and left of each grid crossing, as a share of the image."""
    return _integrate_rows(_integrate_rows(mask_HW.astype(np.float64)).T).T


def _integrate_rows(values_HW: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "E W"]:
    height = values_HW.shape[0]
    sums = np.concatenate([np.zeros_like(values_HW[:1]), np.cumsum(values_HW, axis=0)]) / height
    lines = np.linspace(0, height, GRID + 1)
    below = np.minimum(lines.astype(int), height - 1)
    part = (lines - below)[:, None]
    return sums[below] * (1 - part) + sums[below + 1] * part

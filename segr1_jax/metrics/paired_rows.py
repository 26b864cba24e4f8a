"""Rows of the same held-out samples in two evaluations of a run."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segr1_jax.metrics.held_out_figures import EvalRow, standard_error


class Pair(NamedTuple):
    """The rows of one sample at the end of a run and, if it has one, before the first update."""

    after: EvalRow
    before: EvalRow | None


class Gain(NamedTuple):
    """Mean of the differences in IoU, its standard error, and the number of samples."""

    iou: float
    error: float
    count: int


def paired_rows(before: Sequence[EvalRow], after: Sequence[EvalRow]) -> list[Pair]:
    """Return the rows after training with those of the same samples before it.

    A resumed run may have evaluated other samples: an id alone does not identify one.
    """
    earlier = {(row.example_id, row.name): row for row in before}
    return [Pair(row, earlier.get((row.example_id, row.name))) for row in after]


def gain(pairs: Sequence[Pair]) -> Gain | None:
    """Return the gain over the samples that have both rows, or None if there are none.

    Samples differ far more from each other than from themselves at another step, so the standard
    error of the differences is smaller than that of a difference of means.

    Example:
        >>> from segr1_jax.types import ParseStatus
        >>> rows = [EvalRow(0, "a", "", ParseStatus.OK, iou=iou) for iou in (0.25, 0.75)]
        >>> gain([Pair(rows[1], rows[0])]).iou
        0.5
    """
    both = [(pair.before.iou, pair.after.iou) for pair in pairs if pair.before]
    if not both:
        return None
    before_N, after_N = np.array(both).T
    gain_N = after_N - before_N
    return Gain(float(gain_N.mean()), standard_error(gain_N), len(gain_N))


def best_median_worst(pairs: Sequence[Pair]) -> dict[str, Pair]:
    """Return the samples with the best, median and worst IoU at the end, keyed by those words.

    The result is empty for fewer than three samples, or if all have the same IoU.
    """
    ranked = by_iou(pairs)
    if len(ranked) < 3 or ranked[0].after.iou == ranked[-1].after.iou:
        return {}
    return {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}


def of_every_quality(pairs: Sequence[Pair], most: int) -> list[Pair]:
    """Return up to `most` samples, spread evenly from the best to the worst."""
    places = np.linspace(0, len(pairs) - 1, min(most, len(pairs))).astype(int)
    ranked = by_iou(pairs)
    return [ranked[place] for place in places]


def by_iou(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the samples sorted by their IoU at the end, best first."""
    return sorted(pairs, key=lambda pair: pair.after.iou, reverse=True)

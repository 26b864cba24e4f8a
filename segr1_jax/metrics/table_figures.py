"""Figures of a table from scored samples: foreground, referring, reasoning.

Samples that cannot be read have no scores: they are counted beside the figures, never in them.
Invalid answers are in the figures, with the worst values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from segr1_jax.metrics.held_out_figures import standard_error
from segr1_jax.metrics.pixel_scores import Overlap, no_mask, no_overlap, overlap, score_pixels


@dataclass(frozen=True)
class ScoredSample:
    """One scored sample of a set.

    Attributes:
        status: "ok", or the reason why its answer is not valid (a ParseStatus value).
        scores: PixelScores in a foreground set, Overlap in the others.
        resized: the prediction differed in size from the truth.
    """

    name: str
    status: str
    scores: Overlap
    resized: bool = False


def foreground_figures(samples: Sequence[ScoredSample]) -> dict[str, float]:
    """Return means over samples of S, F, E, MAE and IoU, some with standard errors.

    F and E are weighted, adaptive, and mean and maximum over thresholds: those of the mean curve of
    the set, as pysodmetrics reports it. Without samples there are no figures.
    """
    if not samples:
        return {}
    scores = [sample.scores for sample in samples]
    f_E, e_E = (
        np.mean([getattr(score, name) for score in scores], axis=0)
        for name in ("f_curve", "e_curve")
    )
    means = {
        name: float(np.mean([getattr(score, name) for score in scores]))
        for name in ("s_measure", "weighted_f", "adaptive_f", "adaptive_e", "mae", "iou")
    }
    curves = {"mean_f": f_E.mean(), "max_f": f_E.max(), "mean_e": e_E.mean(), "max_e": e_E.max()}
    errors = {
        f"{name}_se": standard_error(np.array([getattr(score, name) for score in scores]))
        for name in ("s_measure", "mae", "iou")
    }
    return means | errors | {name: float(value) for name, value in curves.items()}


def region_figures(samples: Sequence[ScoredSample]) -> dict[str, float]:
    """Return gIoU (the mean IoU) and cIoU (all intersections over all unions), as LISA does."""
    if not samples:
        return {}
    scores = [sample.scores for sample in samples]
    return {
        "giou": float(np.mean([score.iou for score in scores])),
        "ciou": sum(score.intersection for score in scores) / sum(score.union for score in scores),
    }


class Measure(NamedTuple):
    """The measures of a kind of set: of a map, of an answer without a mask, of all samples."""

    of_map: Callable[..., Overlap]
    of_none: Callable[..., Overlap]
    figures: Callable[[Sequence[ScoredSample]], dict[str, float]]


MEASURES = {
    "foreground": Measure(score_pixels, no_mask, foreground_figures),
    "referring": Measure(overlap, no_overlap, region_figures),
    "reasoning": Measure(overlap, no_overlap, region_figures),
}
"""Measures by kind of set."""

"""Scores of one prediction at the size of the truth.

The referring and reasoning tables need the overlap alone, the foreground tables every figure.

Edge cases, with s the object's share of the image (an empty prediction is a map of zeros; a sample
without an object is never scored, data/truth_masks.py):

| prediction | IoU | S | MAE | F, weighted F | E |
|---|---|---|---|---|---|
| none: the answer is invalid | 0 | 0 | 1 | 0 | 0 |
| empty | 0 | table in reward/scores.py | s | 0 (1) | 0 (1) |
| everything | s | table in reward/scores.py | 1 - s | 1.3 s / (0.3 + s) | as pysodmetrics |

(1) At threshold 0, and at the adaptive threshold, an empty map counts as everything.

Weighted F blurs errors over 7 pixels with zeros beyond the image, so that a missed object within
3 pixels of the border is not entirely missed.

Shape legend: H W pixels of the truth; E thresholds, from 255 down to 0.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from segr1_jax.common.optional_packages import optional_package
from segr1_jax.metrics.held_out_figures import soft_s_measure
from segr1_jax.reward.resize import HALF
from segr1_jax.reward.scores import s_measure

THRESHOLDS = 256
BETA2 = 0.3  # beta squared of the F-measure in the saliency literature


@dataclass(frozen=True)
class Overlap:
    """Number of pixels in the intersection and in the union of prediction and truth."""

    intersection: int
    union: int

    @property
    def iou(self) -> float:
        return self.intersection / self.union


@dataclass(frozen=True)
class PixelScores(Overlap):
    """Scores of one prediction; `curves`, F and E at every threshold, enter tables as means."""

    s_measure: float
    mae: float
    weighted_f: float
    adaptive_f: float
    adaptive_e: float
    f_curve: Float[np.ndarray, " E"]
    e_curve: Float[np.ndarray, " E"]


def no_overlap(truth_HW: Bool[np.ndarray, "H W"]) -> Overlap:
    """Return the overlap of an invalid answer: none of the truth."""
    return Overlap(0, int(truth_HW.sum()))


def no_mask(truth_HW: Bool[np.ndarray, "H W"]) -> PixelScores:
    """Return the scores of an invalid answer: the worst value of each."""
    zeros_E = np.zeros(THRESHOLDS)
    return PixelScores(
        **vars(no_overlap(truth_HW)),
        s_measure=0.0,
        mae=1.0,
        weighted_f=0.0,
        adaptive_f=0.0,
        adaptive_e=0.0,
        f_curve=zeros_E,
        e_curve=zeros_E,
    )


def overlap(
    map_HW: UInt8[np.ndarray, "H W"],
    truth_HW: Bool[np.ndarray, "H W"],
    ignore_HW: Bool[np.ndarray, "H W"] | None = None,
) -> Overlap:
    """Return the overlap of a gray map, cut at half, with the truth, outside `ignore_HW`."""
    mask_HW = map_HW > HALF
    common_HW, either_HW = mask_HW & truth_HW, mask_HW | truth_HW
    if ignore_HW is not None:
        common_HW, either_HW = common_HW & ~ignore_HW, either_HW & ~ignore_HW
    return Overlap(int(common_HW.sum()), int(either_HW.sum()))


def score_pixels(
    map_HW: UInt8[np.ndarray, "H W"],
    truth_HW: Bool[np.ndarray, "H W"],
    ignore_HW: Bool[np.ndarray, "H W"] | None = None,
) -> PixelScores:
    """Return all scores of a gray map; for all but the overlap, `ignore_HW` is background.

    F, E and weighted F are those of pysodmetrics. A map is first stretched to its own range, as
    the authors' MATLAB code does, unless it is constant. S and MAE are ours: they define the cases
    that pysodmetrics leaves undefined.
    """
    gray_HW = _stretched(map_HW)
    f_curve, adaptive_f, e_curve, adaptive_e, weighted = _sod_figures(map_HW, truth_HW)
    return PixelScores(
        **vars(overlap(map_HW, truth_HW, ignore_HW)),
        s_measure=s_measure(map_HW > HALF, truth_HW)
        if _is_mask(map_HW)
        else soft_s_measure(gray_HW, truth_HW),
        mae=float(np.mean(np.abs(gray_HW - truth_HW))),
        weighted_f=weighted,
        adaptive_f=adaptive_f,
        adaptive_e=adaptive_e,
        f_curve=f_curve,
        e_curve=e_curve,
    )


def _is_mask(map_HW: UInt8[np.ndarray, "H W"]) -> bool:
    return bool(np.isin(map_HW, (0, 255)).all())


def _stretched(map_HW: UInt8[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    low, high = int(map_HW.min()), int(map_HW.max())
    return map_HW / 255 if low == high else (map_HW / 255 - low / 255) / (high / 255 - low / 255)


def _sod_figures(map_HW: UInt8[np.ndarray, "H W"], truth_HW: Bool[np.ndarray, "H W"]):
    sod = optional_package("py_sod_metrics", "eval")
    handler = sod.FmeasureHandler(with_dynamic=True, with_adaptive=True, beta=BETA2)
    f, e, weighted = sod.FmeasureV2({"f": handler}), sod.Emeasure(), sod.WeightedFmeasure()
    truth = truth_HW.astype(np.uint8) * 255
    for metric in (f, e, weighted):
        metric.step(pred=map_HW, gt=truth)
    return (
        np.asarray(handler.dynamic_results[0], np.float64),
        float(handler.adaptive_results[0]),
        np.asarray(e.changeable_ems[0], np.float64),
        float(e.adaptive_ems[0]),
        float(weighted.weighted_fms[0]),
    )

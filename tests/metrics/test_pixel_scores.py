"""Figures of single predictions.

Hand-worked numbers, the edge table, MATLAB's and pysodmetrics' published values.
"""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from tolerances import TOL_GOLDEN

from segr1_jax.metrics.pixel_scores import THRESHOLDS, no_mask, no_overlap, overlap, score_pixels
from segr1_jax.metrics.table_figures import ScoredSample, foreground_figures, region_figures
from segr1_jax.reward.scores import s_measure

H, W = 10, 20
KINDS = {"adp": "adaptive", "mean": "mean", "max": "max"}


def rectangle(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def gray(mask: np.ndarray) -> np.ndarray:
    return mask.astype(np.uint8) * 255


def test_two_overlapping_rectangles_by_hand():
    truth, mask = (
        rectangle(2, 2, 4, 10),
        rectangle(2, 7, 4, 10),
    )  # 40 pixels each, 20 of them common
    found = score_pixels(gray(mask), truth)
    assert (found.intersection, found.union, found.iou) == (20, 60, pytest.approx(1 / 3))
    assert found.mae == pytest.approx(40 / 200)
    assert found.s_measure == s_measure(mask, truth)
    # precision = recall = 1/2, so F = 1.3 * .25 / (.3 * .5 + .5) = .5; at threshold 0 all is
    # predicted: precision .2, recall 1
    assert found.f_curve[:-1] == pytest.approx(0.5)
    assert found.f_curve[-1] == pytest.approx(1.3 * 0.2 / (0.3 * 0.2 + 1))
    assert found.adaptive_f == pytest.approx(0.5)
    # E of binary maps: alignment of the four kinds of pixels, with means .2 and .2
    a, b = 0.8, -0.2
    aligned = [
        (2 * p * g / (p * p + g * g) + 1) ** 2 / 4 for p, g in ((a, a), (a, b), (b, a), (b, b))
    ]
    expected = np.dot(aligned, [20, 20, 20, 140]) / 199  # the authors divide by pixels - 1
    assert found.e_curve[:-1] == pytest.approx(expected)
    assert found.adaptive_e == pytest.approx(expected)


def test_the_table_of_edges():
    truth = rectangle(
        3, 3, 4, 10
    )  # away from the borders, where weighted F blurs errors into nothing
    share = truth.mean()
    perfect, empty, everything = (
        score_pixels(gray(mask), truth)
        for mask in (truth, np.zeros_like(truth), np.ones_like(truth))
    )
    assert (perfect.iou, perfect.mae) == (1, 0)
    assert [perfect.adaptive_f, perfect.weighted_f] == pytest.approx([1, 1])
    assert [perfect.f_curve[0], perfect.s_measure] == pytest.approx([1, 1])
    of_all = 1.3 * share / (0.3 * share + 1)
    assert (empty.iou, empty.weighted_f) == (0, pytest.approx(0, abs=1e-9))
    assert empty.mae == pytest.approx(share)
    assert empty.f_curve[:-1] == pytest.approx(0)
    assert [empty.f_curve[-1], empty.adaptive_f] == pytest.approx([of_all, of_all])
    assert [everything.iou, everything.mae] == pytest.approx([share, 1 - share])
    assert everything.f_curve == pytest.approx(of_all)
    invalid = no_mask(truth)
    assert (
        invalid.iou,
        invalid.s_measure,
        invalid.mae,
        invalid.weighted_f,
        invalid.adaptive_f,
        invalid.adaptive_e,
    ) == (0, 0, 1, 0, 0, 0)
    assert (invalid.union, invalid.f_curve.sum(), invalid.e_curve.sum()) == (40, 0, 0)


def test_ignored_pixels_count_for_neither_part_of_iou():
    truth, mask, ignore = rectangle(2, 2, 4, 10), rectangle(2, 7, 4, 10), rectangle(0, 0, H, 9)
    found = overlap(gray(mask), truth, ignore)
    assert score_pixels(gray(mask), truth, ignore).iou == found.iou
    assert (found.intersection, found.union) == (
        12,
        32,
    )  # columns 9 to 11 of both, 9 to 16 of either


def test_ciou_and_giou_against_pycocotools():
    rng = np.random.default_rng(0)
    truths, masks = rng.random((2, 6, H, W)) < 0.3
    samples = [
        ScoredSample(str(n), "ok", overlap(gray(m), t))
        for n, (m, t) in enumerate(zip(masks, truths, strict=True))
    ]
    codes = [
        [coco.encode(np.asfortranarray(x.astype(np.uint8))) for x in several]
        for several in (masks, truths)
    ]
    each = [coco.iou([m], [t], [0])[0, 0] for m, t in zip(*codes, strict=True)]
    common = [coco.area(coco.merge([m, t], intersect=True)) for m, t in zip(*codes, strict=True)]
    joined = [coco.area(coco.merge([m, t])) for m, t in zip(*codes, strict=True)]
    figures = region_figures(samples)
    assert figures["giou"] == pytest.approx(np.mean(each), abs=TOL_GOLDEN)
    assert figures["ciou"] == pytest.approx(
        np.sum(common, dtype=float) / np.sum(joined, dtype=float), abs=TOL_GOLDEN
    )


def test_an_invalid_answer_counts_with_its_truth():
    truth = rectangle(2, 2, 4, 10)
    samples = [
        ScoredSample("a", "ok", score_pixels(gray(truth), truth)),
        ScoredSample("b", "bad_box", no_mask(truth)),
    ]
    assert region_figures(samples) == {"giou": 0.5, "ciou": 0.5}
    assert no_overlap(truth) == overlap(np.zeros((H, W), np.uint8), truth)
    figures = foreground_figures(samples)
    assert [figures[name] for name in ("iou", "mae", "adaptive_f")] == pytest.approx(
        [0.5, 0.5, 0.5]
    )
    assert figures["max_f"] == pytest.approx(0.5)
    assert figures["mean_f"] == pytest.approx((255 * 1 + figures["mean_f"] * 512 - 255) / 512)
    assert foreground_figures([]) == region_figures([]) == {}


def test_maximum_is_of_the_mean_curve():
    """Two samples with their best thresholds apart.

    The maximum of the mean is below the mean of the maxima.
    """
    rng = np.random.default_rng(1)
    truth = rectangle(2, 2, 6, 10)
    maps = [
        np.where(truth, rng.integers(low, 256, (H, W)), rng.integers(0, low + 60, (H, W))).astype(
            np.uint8
        )
        for low in (30, 180)
    ]
    scores = [score_pixels(each, truth) for each in maps]
    figures = foreground_figures(
        [ScoredSample(str(n), "ok", each) for n, each in enumerate(scores)]
    )
    assert figures["max_f"] == pytest.approx(
        np.mean([each.f_curve for each in scores], axis=0).max()
    )
    assert figures["max_f"] < np.mean([each.f_curve.max() for each in scores])
    assert len(scores[0].f_curve) == len(scores[0].e_curve) == THRESHOLDS


def test_matlab_s_measure_mae_and_adaptive_f(shared):
    golden = shared / "data/metrics_golden"
    for row in csv.DictReader((golden / "per_image_matlab.csv").open()):
        prediction, truth = (
            np.asarray(Image.open(golden / folder / f"{row['id']}.png").convert("L"))
            for folder in ("pred_DSS", "gt")
        )
        found = score_pixels(prediction, truth > 128)
        assert found.s_measure == pytest.approx(float(row["S_measure"]), abs=TOL_GOLDEN)
        assert found.mae == pytest.approx(float(row["MAE"]), abs=TOL_GOLDEN)


def test_the_published_figures_of_pysodmetrics_own_samples(shared):
    folder = shared / "data/metrics_golden/pysodmetrics_testdata"
    expected = {}
    for version in json.loads((folder / "version_performance.json").read_text()).values():
        expected |= version
    samples = []
    for path in sorted((folder / "masks").iterdir()):
        truth, prediction = (
            np.asarray(Image.open(p).convert("L")) for p in (path, folder / "preds" / path.name)
        )
        samples.append(ScoredSample(path.stem, "ok", score_pixels(prediction, truth > 128)))
    figures = foreground_figures(samples)
    names = {
        "Smeasure": "s_measure",
        "wFmeasure": "weighted_f",
        "MAE": "mae",
        **{
            f"{kind}{letter.upper()}m": f"{ours}_{letter}"
            for kind, ours in KINDS.items()
            for letter in "ef"
        },
    }
    compared = {ours: expected[theirs] for theirs, ours in names.items() if theirs in expected}
    assert len(compared) == len(names), sorted(expected)
    for name, value in compared.items():
        assert figures[name] == pytest.approx(value, abs=TOL_GOLDEN), name

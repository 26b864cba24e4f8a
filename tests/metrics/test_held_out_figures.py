"""Figures of the table against numbers worked by hand.

The constant box is compared with brute force, S-measures with MATLAB's.
"""

import csv
import itertools
import math

import numpy as np
import pytest
from PIL import Image
from tolerances import TOL_GOLDEN

from segr1_jax.metrics.held_out_figures import (
    EvalRow,
    aggregate,
    best_constant_box,
    mean_absolute_error,
    soft_s_measure,
)
from segr1_jax.metrics.tables import markdown_table
from segr1_jax.types import ParseStatus


def _row(parse: ParseStatus = ParseStatus.OK, **terms: float) -> EvalRow:
    return EvalRow(example_id=0, name="a", text="", parse=parse, **terms)


def test_aggregate_by_hand():
    figures = aggregate(
        [
            _row(iou=0.8, s_measure=0.9, mae=0.1),
            _row(iou=0.4, s_measure=0.6, mae=0.2),
            _row(ParseStatus.BAD_BOX),
        ]
    )
    assert figures["count"] == 3
    assert figures["format"] == pytest.approx(2 / 3)
    assert figures["iou"] == pytest.approx(0.4)  # the invalid answer counts as 0
    assert figures["iou_se"] == pytest.approx(0.4 / math.sqrt(3))  # deviations .4, 0, -.4: std 0.4
    assert figures["mae"] == pytest.approx(1.3 / 3)
    assert (figures["parse/ok"], figures["parse/bad_box"], figures["parse/too_long"]) == (2, 1, 0)


def test_aggregate_of_one_and_of_none():
    assert math.isnan(aggregate([_row(iou=1.0)])["iou_se"])
    with pytest.raises(ValueError, match="at least one row"):
        aggregate([])


def test_mean_absolute_error_is_the_share_of_differing_pixels():
    truth = np.zeros((4, 5), bool)
    prediction = truth.copy()
    prediction[1, :3] = True
    assert mean_absolute_error(prediction, truth) == 3 / 20


def test_soft_s_measure_equals_the_authors_matlab_code(shared):
    """DSS saliency maps of 40 SOD images, scored by sal_eval_toolbox.

    Each map spans 0 to 255, so its normalization changes nothing.
    """
    golden = shared / "data/metrics_golden"
    rows = list(csv.DictReader((golden / "per_image_matlab.csv").open()))
    assert len(rows) == 40
    for row in rows:
        prediction, truth = (
            np.asarray(Image.open(golden / folder / f"{row['id']}.png"))
            for folder in ("pred_DSS", "gt")
        )
        assert soft_s_measure(prediction / 255, truth.astype(bool)) == pytest.approx(
            float(row["S_measure"]), abs=TOL_GOLDEN
        )


def test_constant_box_of_one_rectangle_is_the_rectangle():
    mask = np.zeros((64, 128), bool)
    mask[10:31, 24:100] = True  # on grid lines: rows are 1/64, columns 2/128
    assert best_constant_box([mask]) == (24 / 128, 10 / 64, 100 / 128, 31 / 64)


def test_constant_box_matches_brute_force_on_masks_of_two_sizes():
    generator = np.random.default_rng(0)
    cells = [generator.random((8, 8)) < 0.2 for _ in range(4)]
    for cell in cells:
        cell[2:6, 3:7] |= generator.random((4, 4)) < 0.8
    masks = [np.kron(cell, np.ones((4, 6))).astype(bool) for cell in cells[:2]] + [
        np.kron(cell, np.ones((2, 3))).astype(bool) for cell in cells[2:]
    ]
    box = best_constant_box(masks)
    spans = list(itertools.combinations(range(9), 2))
    brute = max(
        _mean_iou(cells, (x1 / 8, y1 / 8, x2 / 8, y2 / 8)) for x1, x2 in spans for y1, y2 in spans
    )
    assert _mean_iou(cells, box) >= brute - 1e-12


def _mean_iou(cells, box) -> float:
    fine = [np.kron(cell, np.ones((8, 8))).astype(bool) for cell in cells]
    x1, y1, x2, y2 = (round(side * 64) for side in box)
    filled = np.zeros((64, 64), bool)
    filled[y1:y2, x1:x2] = True
    return float(np.mean([(filled & mask).sum() / (filled | mask).sum() for mask in fine]))


def test_table():
    rows = {"best constant": {"iou": 0.25}, "GRPO": {"iou": 0.5, "iou_se": 0.01, "count": 200.0}}
    assert markdown_table(rows, {"iou": "IoU", "count": "images"}).splitlines() == [
        "| answers | IoU | images |",
        "|---|---:|---:|",
        "| best constant | 0.250 | - |",
        "| GRPO | 0.500 ± 0.010 | 200 |",
    ]

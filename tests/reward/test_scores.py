import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tolerances import TOL_S_MEASURE

from segr1_jax.metrics.held_out_figures import soft_s_measure
from segr1_jax.reward.combine import combine
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.scores import capped_size, iou, resize_nearest, s_measure
from segr1_jax.types import ParseStatus, Score, ScoreStatus

TOL_HAND = 1e-9  # EPS of the formula


def _mask(*rows):
    return np.array([[c == "#" for c in row] for row in rows])


HAND_WORKED = [
    # the module's table: prediction, ground truth, S
    ("empty truth", _mask("#...", "...."), _mask("....", "...."), 7 / 8),
    ("full truth", _mask("##..", "##.."), _mask("####", "####"), 1 / 2),
    ("one pixel quadrants, right", _mask("#.", ".."), _mask("#.", ".."), 1.0),
    ("one pixel quadrants, all predicted", _mask("##", "##"), _mask("#.", ".."), 0.625),
    # centroid (1, 1) on the last row and column: one quadrant with everything, covariance 0 for a
    # constant prediction
    ("empty quadrants, all predicted", _mask("##", "##"), _mask("..", ".#"), 0.5 * 0.25),
    # constant quadrants count 1 also where they differ: region 1; foreground 0, background 2*.0
    # (all predicted wrong)
    ("one pixel quadrants, inverted", _mask(".#", "##"), _mask("#.", ".."), 0.5),
    # one quadrant, covariance negative: (p, g) means (.75, .25), cov (4*0-3)/12, variances
    # (3+3)/12: 4*.75*.25*-.25/(.625*.5) = -.6
    ("negative region is clipped", _mask("##", "#."), _mask("..", ".#"), 0.0),
]


@pytest.mark.parametrize(
    ("mask", "truth", "expected"),
    [row[1:] for row in HAND_WORKED],
    ids=[row[0] for row in HAND_WORKED],
)
def test_s_measure_by_hand(mask, truth, expected):
    assert s_measure(mask, truth) == pytest.approx(expected, abs=TOL_HAND)


def test_iou_by_hand():
    assert iou(_mask("##."), _mask(".##")) == pytest.approx(1 / 3)
    assert iou(_mask("..."), _mask("...")) == 1.0
    assert iou(_mask("..."), _mask("#..")) == 0.0


def _pairs():
    shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))
    return shapes.flatmap(lambda s: st.tuples(hnp.arrays(bool, s), hnp.arrays(bool, s)))


@given(_pairs())
def test_scores_are_in_range_and_finite(pair):
    assert 0 <= iou(*pair) <= 1
    assert 0 <= s_measure(*pair) <= 1 + TOL_S_MEASURE


@settings(max_examples=400, deadline=None)
@given(_pairs())
def test_s_measure_equals_that_of_gray_maps_on_small_masks(pair):
    mask, truth = pair
    assert s_measure(mask, truth) == pytest.approx(
        soft_s_measure(mask.astype(np.float64), truth), abs=TOL_S_MEASURE
    )


def _random_mask(rng, shape, kind):
    mask = np.zeros(shape, bool)
    if kind == "noise":
        return rng.random(shape) < rng.random()
    if kind == "blob":
        return rng.standard_normal(shape).cumsum(0).cumsum(1) > rng.normal(0, 5)
    if kind == "full":
        return ~mask
    if kind == "pixel":
        mask[tuple(rng.integers(0, shape))] = True
    if kind == "last row":
        mask[-1] = rng.random(shape[1]) < 0.5
    if kind == "last column":
        mask[:, -1] = rng.random(shape[0]) < 0.5
    return mask


@pytest.fixture(scope="module")
def many_pairs():
    """2,000 pairs (mask, truth) of 1 to 63 pixels a side.

    Every kind of mask against every kind of truth.
    """
    rng, pairs = np.random.default_rng(0), []
    kinds = ("noise", "blob", "blob", "full", "empty", "pixel", "last row", "last column")
    for mask_kind, truth_kind in itertools.islice(
        itertools.cycle(itertools.product(kinds, kinds)), 2000
    ):
        shape = tuple(rng.integers(1, 64, 2))
        truth = _random_mask(rng, shape, truth_kind)
        mask = _random_mask(rng, shape, mask_kind)
        near = mask_kind == truth_kind == "blob"  # a good answer: the truth with some pixels wrong
        pairs.append((truth ^ (mask & (rng.random(shape) < 0.2)), truth) if near else (mask, truth))
    return pairs


def test_s_measure_equals_that_of_gray_maps(many_pairs):
    for mask, truth in many_pairs:
        assert s_measure(mask, truth) == pytest.approx(
            soft_s_measure(mask.astype(np.float64), truth), abs=TOL_S_MEASURE
        )


def test_s_measure_equals_pysodmetrics(many_pairs):
    """Where pysodmetrics gives NaN, quadrants without pixels count nothing (see the table)."""
    reason = "pysodmetrics, which needs numpy < 2.3.5, is not installed here"
    metrics = pytest.importorskip("py_sod_metrics", reason=reason)

    class WithoutEmptyQuadrants(metrics.Smeasure):
        def ssim(self, pred, gt):
            return super().ssim(pred, gt) if gt.size else 0.0

    finite = 0
    for mask, truth in many_pairs:
        gray = mask.astype(np.float64)
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            expected = metrics.Smeasure().cal_sm(gray, truth)
        finite += np.isfinite(expected)
        if not np.isfinite(expected):
            expected = WithoutEmptyQuadrants().cal_sm(gray, truth)
        assert s_measure(mask, truth) == pytest.approx(expected, abs=TOL_S_MEASURE), (mask, truth)
        assert soft_s_measure(gray, truth) == pytest.approx(expected, abs=TOL_S_MEASURE), (
            mask,
            truth,
        )
    assert 1000 < finite < 1700  # both cases are met often


def test_resize_nearest_and_cap():
    mask = _mask("#..#", "....")
    np.testing.assert_array_equal(
        resize_nearest(mask, (4, 8)), np.kron(mask, np.ones((2, 2), bool))
    )
    np.testing.assert_array_equal(
        resize_nearest(np.kron(mask, np.ones((3, 3), bool)), (2, 4)), mask
    )
    assert capped_size((600, 1200), 1024) == (512, 1024)
    assert capped_size((3, 5), 1024) == (3, 5)


def test_combine():
    score = Score(ScoreStatus.OK, iou=0.5, s_measure=0.6)
    weights = RewardConfig().term_weights
    assert combine(weights, ParseStatus.OK, score, {}).total == pytest.approx(1 + 0.35 + 0.18)
    bad = combine(weights, ParseStatus.BAD_BOX, None, {})
    assert (bad.total, bad.format, bad.valid, bad.parse) == (0, 0, True, ParseStatus.BAD_BOX)
    lost = combine(weights, ParseStatus.OK, Score(ScoreStatus.QUARANTINED, 0.0, 0.0), {})
    assert not lost.valid


def test_masks_of_one_bit_images_count_like_others():
    rng = np.random.default_rng(5)
    mask, truth = rng.random((2, 31, 20)) < 0.4
    as_pillow_reads = [
        np.where(array, 255, 0).astype(np.uint8).view(bool) for array in (mask, truth)
    ]
    assert s_measure(*as_pillow_reads) == s_measure(mask, truth)
    assert iou(*as_pillow_reads) == iou(mask, truth)

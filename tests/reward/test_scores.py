import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segr1_jax.reward.combine import combine
from segr1_jax.reward.config import RewardWeights
from segr1_jax.reward.scores import capped_size, iou, resize_nearest, s_measure
from segr1_jax.types import ParseStatus, Score, ScoreStatus

TOL_ORACLE = 1e-12  # same formula, other order of float64 sums
TOL_HAND = 1e-9  # EPS of the formula


def _mask(*rows):
    return np.array([[c == "#" for c in row] for row in rows])


HAND_WORKED = [
    # the module's table: prediction, ground truth, S
    ("empty truth", _mask("#...", "...."), _mask("....", "...."), 7 / 8),
    ("full truth", _mask("##..", "##.."), _mask("####", "####"), 1 / 2),
    ("one pixel quadrants, right", _mask("#.", ".."), _mask("#.", ".."), 1.0),
    ("one pixel quadrants, all predicted", _mask("##", "##"), _mask("#.", ".."), 0.625),
    # centroid (1, 1) on the last row and column: one quadrant with everything, covariance 0 for a constant prediction
    ("empty quadrants, all predicted", _mask("##", "##"), _mask("..", ".#"), 0.5 * 0.25),
    # constant quadrants count 1 also where they differ: region 1; foreground 0, background 2*.0 (all predicted wrong)
    ("one pixel quadrants, inverted", _mask(".#", "##"), _mask("#.", ".."), 0.5),
    # one quadrant, covariance negative: (p, g) means (.75, .25), cov (4*0-3)/12, variances (3+3)/12: 4*.75*.25*-.25/(.625*.5) = -.6
    ("negative region is clipped", _mask("##", "#."), _mask("..", ".#"), 0.0),
]


@pytest.mark.parametrize(("mask", "truth", "expected"), [row[1:] for row in HAND_WORKED], ids=[row[0] for row in HAND_WORKED])
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
    assert 0 <= s_measure(*pair) <= 1 + TOL_ORACLE


@settings(max_examples=400, deadline=None)
@given(_pairs())
def test_s_measure_equals_pysodmetrics_on_small_masks(pair):
    _compare(*pair)


def test_s_measure_equals_pysodmetrics_on_random_blobs():
    rng = np.random.default_rng(0)
    for _ in range(100):
        height, width = rng.integers(8, 60, 2)
        noise = rng.standard_normal((height, width)).cumsum(0).cumsum(1)
        _compare(noise > rng.normal(0, 5), noise + rng.normal(0, 3, noise.shape) > 0)


def _compare(mask, truth):
    oracle = pytest.importorskip("py_sod_metrics").Smeasure()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        expected = oracle.cal_sm(mask.astype(np.float64), truth)
    if np.isfinite(expected):
        assert s_measure(mask, truth) == pytest.approx(expected, abs=TOL_ORACLE)


@pytest.mark.slow
def test_s_measure_is_much_faster_than_pysodmetrics():
    oracle = pytest.importorskip("py_sod_metrics").Smeasure()
    rng = np.random.default_rng(0)
    mask, truth = rng.random((2, 756, 756)) > 0.5
    grey = mask.astype(np.float64)

    def best(call):
        times = []
        for _ in range(5):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        return min(times)

    assert best(lambda: oracle.cal_sm(grey, truth)) > 30 * best(lambda: s_measure(mask, truth))


def test_resize_nearest_and_cap():
    mask = _mask("#..#", "....")
    np.testing.assert_array_equal(resize_nearest(mask, (4, 8)), np.kron(mask, np.ones((2, 2), bool)))
    np.testing.assert_array_equal(resize_nearest(np.kron(mask, np.ones((3, 3), bool)), (2, 4)), mask)
    assert capped_size((600, 1200), 1024) == (512, 1024)
    assert capped_size((3, 5), 1024) == (3, 5)


def test_combine():
    score = Score(ScoreStatus.OK, iou=0.5, s_measure=0.6)
    assert combine(RewardWeights(), ParseStatus.OK, score).total == pytest.approx(1 + 0.35 + 0.18)
    bad = combine(RewardWeights(), ParseStatus.BAD_BOX, None)
    assert (bad.total, bad.format, bad.valid, bad.parse) == (0, 0, True, ParseStatus.BAD_BOX)
    lost = combine(RewardWeights(), ParseStatus.OK, Score(ScoreStatus.QUARANTINED, 0.0, 0.0))
    assert not lost.valid

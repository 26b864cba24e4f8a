"""What a prompt means to the nano SAM2's training, checked by hand on two squares."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "launch" / "nano_sam2"))
from prompts import DISC, box_iou, meant_mask, random_layout, random_prompt, tight_box

SIDE = 80


def _square(y, x, edge):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y : y + edge, x : x + edge] = True
    return mask


LEFT, RIGHT = _square(20, 10, 20), _square(20, 50, 20)


def _half(mask):
    return mask[::2, ::2].astype(np.float32)


def _meant(box, *points):
    where = np.array([p[:2] for p in points], np.float32).reshape(-1, 2)
    return meant_mask(
        [LEFT, RIGHT],
        None if box is None else np.array(box, np.float32),
        where,
        np.array([p[2] for p in points], np.int32),
    )


def test_tight_box_and_iou():
    np.testing.assert_array_equal(tight_box(LEFT), (10, 20, 30, 40))
    assert box_iou(np.array([0, 0, 2, 2]), np.array([1, 0, 3, 2])) == pytest.approx(1 / 3)


def test_a_good_box_means_its_object_and_a_far_one_its_own_rectangle():
    np.testing.assert_array_equal(_meant((10, 20, 30, 40)), _half(LEFT))
    np.testing.assert_array_equal(
        _meant((0, 60, 40, 80)), _half(np.pad(np.ones((20, 40), bool), ((60, 0), (0, 40))))
    )


def test_a_box_around_both_means_both_until_a_negative_point_names_one():
    both = (10, 20, 70, 40)
    np.testing.assert_array_equal(_meant(both), _half(LEFT | RIGHT))
    np.testing.assert_array_equal(_meant(both, (60, 30, 0)), _half(LEFT))


def test_points_alone_mean_their_objects_and_stray_ones_a_disc():
    np.testing.assert_array_equal(_meant(None, (20, 30, 1)), _half(LEFT))
    stray = _meant(None, (40, 70, 1))
    assert stray.sum() * 4 == pytest.approx(np.pi * (DISC * SIDE) ** 2, rel=0.1)
    assert not (stray * _half(LEFT | RIGHT)).any()


def test_a_negative_point_on_the_object_itself_bites_a_disc():
    bitten = _meant((10, 20, 30, 40), (20, 30, 0))
    assert 0 < bitten.sum() < _half(LEFT).sum()


def test_random_prompts_have_one_layout_and_soft_meanings():
    rng = np.random.default_rng(0)
    for _ in range(50):
        has_box, count = random_layout(rng)
        box, points, labels = random_prompt(rng, [LEFT, RIGHT], has_box, count)
        assert (box is not None) == has_box
        assert len(points) == len(labels) == count
        meaning = meant_mask([LEFT, RIGHT], box, points, labels)
        assert 0 <= meaning.min() <= meaning.max() <= 1

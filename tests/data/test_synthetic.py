import dataclasses

import numpy as np
import pytest

from segr1_jax.data.config import LEVELS, DataConfig
from segr1_jax.data.synthetic import generate, scene, sentences
from segr1_jax.data.synthetic_shapes import SIDE_RANGE
from segr1_jax.errors import UserError

SIDE_SLACK = 0.08  # an object's long side is set from a coarse raster of its shape


def _configs():
    return [
        DataConfig(level=level, max_objects=k, sentences=s)
        for level in LEVELS
        for k, s in ((1, False), (3, False), (3, True))
    ]


def _square(side, y, x, edge):
    mask = np.zeros((side, side), bool)
    mask[y : y + edge, x : x + edge] = True
    return mask


@pytest.mark.parametrize(
    "config", _configs(), ids=lambda c: f"{c.level}-{c.max_objects}-{c.sentences}"
)
def test_sample_is_a_pure_function_of_config_and_index(config):
    first = [generate(config, i) for i in range(4)]
    again = [generate(config, i) for i in reversed(range(4))][::-1]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.mask, b.mask)
        assert (a.instruction, a.name, a.id) == (b.instruction, b.name, b.id)


def test_every_sample_differs_between_indices_seeds_and_levels():
    base = DataConfig(size=56)
    sets = [base, dataclasses.replace(base, seed=1), dataclasses.replace(base, level="salient")]
    images = [generate(config, i).image.tobytes() for config in sets for i in range(50)]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize(
    "config", _configs(), ids=lambda c: f"{c.level}-{c.max_objects}-{c.sentences}"
)
def test_objects_are_disjoint_of_visible_size_and_the_mask_is_made_of_them(config):
    for index in range(25):
        example, masks = generate(config, index), scene(config, index).masks
        assert example.image.shape == (168, 168, 3)
        assert example.image.dtype == np.uint8
        assert 1 <= len(masks) <= config.max_objects
        assert np.sum(masks, axis=0).max() == 1
        for mask in masks:
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            side = max(np.ptp(rows), np.ptp(columns)) / 168
            assert SIDE_RANGE[0] - SIDE_SLACK < side < SIDE_RANGE[1] + SIDE_SLACK
            assert mask.sum() >= 100
        expected = (
            [m for m in masks if np.array_equal(m, example.mask)]
            if config.sentences
            else [np.logical_or.reduce(masks)]
        )
        assert len(expected) == 1
        np.testing.assert_array_equal(example.mask, expected[0])
        assert (example.instruction is not None) == config.sentences


@pytest.mark.parametrize("level", LEVELS)
def test_filling_the_box_is_clearly_worse_than_the_mask(level):
    fills = [
        m.sum() / (np.ptp(np.argwhere(m), axis=0) + 1).prod()
        for i in range(120)
        for m in scene(DataConfig(level=level), i).masks
    ]
    assert np.mean(fills) < 0.62
    assert np.std(fills) > 0.1


def test_bright_objects_stand_out_and_camouflaged_ones_hardly():
    def contrast(level):
        pairs = [
            (s.image.mean(-1), s.masks[0])
            for s in (scene(DataConfig(level=level), i) for i in range(60))
        ]
        return np.mean([abs(gray[mask].mean() - gray[~mask].mean()) for gray, mask in pairs])

    assert contrast("bright") > 80
    assert 3 < contrast("camouflaged") < 25 < contrast("salient")


def test_sentences_by_hand():
    small_left, large_right = _square(100, 10, 10, 10), _square(100, 12, 60, 20)
    # centroids: rows 14.5 and 21.5 (7 % of the side apart, too close to say), columns 14.5 and
    # 69.5; areas 100 and 400
    assert set(sentences([small_left, large_right], ["red", "blue"])) == {
        (0, "the red object"),
        (1, "the blue object"),
        (0, "the smallest object"),
        (1, "the largest object"),
        (0, "the leftmost object"),
        (1, "the rightmost object"),
    }


def test_sentence_never_names_a_shared_color_and_always_exists():
    masks = [_square(100, 10, 10, 10), _square(100, 12, 14, 10)]
    ((target, sentence),) = sentences(masks, ["red", "red"])
    assert (target, sentence) in {(1, "the rightmost object"), (0, "the leftmost object")}
    assert sentences(masks[:1], []) == [(0, "the object")]


def test_sentence_picks_the_object_it_names():
    config = DataConfig(level="camouflaged", max_objects=3, sentences=True)
    place = {
        "leftmost": (1, min),
        "rightmost": (1, max),
        "topmost": (0, min),
        "bottommost": (0, max),
    }
    for index in range(40):
        example, masks = generate(config, index), scene(config, index).masks
        word = example.instruction.split()[1]
        if word in place:
            axis, best = place[word]
            centres = [np.argwhere(mask)[:, axis].mean() for mask in masks]
            np.testing.assert_array_equal(example.mask, masks[centres.index(best(centres))])
        elif word in ("largest", "smallest"):
            areas = [mask.sum() for mask in masks]
            assert example.mask.sum() == (max(areas) if word == "largest" else min(areas))


def test_negative_index_is_a_user_error():
    with pytest.raises(UserError, match="index -1"):
        generate(DataConfig(), -1)

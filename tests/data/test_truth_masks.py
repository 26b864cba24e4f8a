"""Masks from pictures, polygons and COCO annotations.

They are compared with masks drawn by hand and with pycocotools' own decoding.
"""

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from segr1_jax.data.truth_masks import CocoSegmentation, MaskFile, Polygon, Polygons
from segr1_jax.errors import UserError

H, W = 20, 30


def rectangle(left: int, top: int, right: int, bottom: int) -> Polygon:
    """Corners on the outermost pixels, which belong to the polygon."""
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def noise_mask() -> np.ndarray:
    return np.random.default_rng(3).random((H, W)) < 0.4


def test_polygons_hold_their_outline_and_the_smaller_lies_on_top():
    drawn = Polygons(
        "a.json", (Polygon(rectangle(10, 5, 12, 7), counts=False), Polygon(rectangle(4, 2, 20, 12)))
    )
    found = drawn.read(H, W)
    expected = np.zeros((H, W), bool)
    expected[2:13, 4:21] = True
    hole = np.zeros((H, W), bool)
    hole[5:8, 10:13] = True
    np.testing.assert_array_equal(found.object, expected & ~hole)
    np.testing.assert_array_equal(found.ignore, hole)
    assert Polygons("a.json", (Polygon(rectangle(4, 2, 20, 12)),)).read(H, W).ignore is None


def test_polygons_outside_the_image_are_cut_and_none_left_is_a_fault():
    assert Polygons("a.json", (Polygon(rectangle(-50, -50, 3, 3)),)).read(H, W).object.sum() == 16
    with pytest.raises(UserError, match=r"a\.json.*no pixel inside the image"):
        Polygons("a.json", (Polygon(rectangle(-50, -50, -3, -3)),)).read(H, W)
    with pytest.raises(UserError, match="a polygon of the target"):
        Polygons("a.json", (Polygon(rectangle(1, 1, 3, 3), counts=False),)).check(W, H)


@pytest.mark.parametrize("compressed", [True, False])
def test_run_lengths(compressed):
    mask = noise_mask()
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    if not compressed:  # COCO's plain form: lengths of runs down the columns, background first
        flat = mask.flatten(order="F")
        ends = (
            np.flatnonzero(np.diff(np.r_[not True, flat]))
            if not flat[0]
            else np.r_[0, np.flatnonzero(np.diff(flat)) + 1]
        )
        code = {"size": [H, W], "counts": np.diff(np.r_[0, ends, flat.size]).tolist()}
    np.testing.assert_array_equal(CocoSegmentation("a", code, H, W).read(H, W).object, mask)


def test_several_polygons_are_joined():
    parts = [[2, 2, 8, 2, 8, 8, 2, 8], [12.0, 4.0, 20.0, 4.0, 20.0, 10.0, 12.0, 10.0]]
    found = CocoSegmentation("a", parts, H, W).read(H, W).object
    np.testing.assert_array_equal(found, coco.decode(coco.frPyObjects(parts, H, W)).any(axis=2))
    assert found.sum() == 6 * 6 + 8 * 6


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        {"size": [H, W]},
        {"size": [H, W], "counts": [1, "b"]},
        [[1.0, 2.0]],
        "text",
        {"size": [4, 4], "counts": [0, 16]},
    ],
)
def test_bad_annotations_are_named(segmentation):
    with pytest.raises(UserError, match="annotation 7"):
        CocoSegmentation("annotation 7", segmentation, H, W).read(H, W)


def test_shapes_must_agree_and_sizes_of_annotations(tmp_path):
    with pytest.raises(UserError, match="30x20"):
        CocoSegmentation("a", [[2, 2, 8, 2, 8, 8]], H, W + 1).check(W, H)
    Image.fromarray(noise_mask()).save(tmp_path / "a.png")
    MaskFile(tmp_path / "a.png").check(W, H)
    MaskFile(tmp_path / "a.png").check(W, H + 1)
    with pytest.raises(UserError, match=r"a\.png"):
        MaskFile(tmp_path / "a.png").check(H, W)

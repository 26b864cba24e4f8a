import numpy as np

from segr1_jax.common.drawing import (
    BOX_COLOR,
    EDGE_COLOR,
    FALSE_COLOR,
    GAP,
    HIT_COLOR,
    MISS_COLOR,
    POINT_COLORS,
    comparison,
    overlay,
    panel,
)
from segr1_jax.types import SamPrompt


def test_overlay_tints_the_mask_and_draws_the_prompts():
    image = np.full((40, 60, 3), 100, np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[30:38, 40:55] = True
    prompt = SamPrompt(
        box=np.array([5, 5, 30, 25], np.float32),
        points=np.array([[10, 10], [20, 20]], np.float32),
        labels=np.array([1, 0]),
    )
    picture = overlay(image, mask, [prompt])
    assert picture.shape == image.shape
    assert tuple(picture[5, 15]) == BOX_COLOR
    assert tuple(picture[10, 10]) == POINT_COLORS[1]
    assert tuple(picture[20, 20]) == POINT_COLORS[0]
    assert tuple(picture[34, 47]) == (
        65,
        122,
        178,
    )  # half of (30, 144, 255), half of 100, rounded to even
    assert (picture[30, 41:54] == EDGE_COLOR).all()
    assert (picture[31:37, 54] == EDGE_COLOR).all()
    assert tuple(picture[31, 41]) == (65, 122, 178)
    assert tuple(picture[2, 2]) == (100, 100, 100)
    assert (image == 100).all()


def test_comparison_colors_do_not_depend_on_those_of_the_image():
    mask, truth = np.zeros((60, 90), bool), np.zeros((60, 90), bool)
    mask[10:50, 10:60], truth[10:50, 30:80] = True, True
    red, blue = np.zeros((2, 60, 90, 3), np.uint8)
    red[..., 0] = blue[..., 2] = 210
    picture = comparison(red, mask, truth)
    assert (picture == comparison(blue, mask, truth)).all()
    gray = 210 / 3 / 4  # the tint covers three quarters
    for place, color in {(30, 45): HIT_COLOR, (30, 70): MISS_COLOR}.items():
        assert tuple(picture[place]) == tuple(np.rint(0.75 * np.array(color) + gray).astype(int))
    false_alarm = picture[15:45, 12:28].reshape(-1, 3)
    tinted = np.rint(0.75 * np.array(FALSE_COLOR) + gray).astype(int)
    hatched = (false_alarm == EDGE_COLOR).all(-1)
    assert 0.2 < hatched.mean() < 0.5
    assert (false_alarm[~hatched] == tinted).all()
    assert (picture[30, 30] == EDGE_COLOR).all(), "the truth is outlined"
    assert tuple(picture[5, 5]) == (70, 70, 70)


def test_points_differ_by_shape():
    """The corner of the bounding square of a mark belongs to a square alone."""
    points = np.array([[100, 100], [200, 100]], np.float32)
    prompt = SamPrompt(None, points, np.array([1, 0], np.int32))
    picture = overlay(np.zeros((300, 300, 3), np.uint8), prompts=[prompt])
    reach = 4  # twice the stroke of 2 pixels
    corners = picture[100 - reach, [100 - reach, 200 - reach]].any(-1)
    assert corners.tolist() == [False, True]


def test_panel_lays_three_pictures_side_by_side():
    image = np.zeros((20, 30, 3), np.uint8)
    mask = np.ones((20, 30), bool)
    picture = panel(image, prediction_HW=None, truth_HW=mask)
    assert picture.shape == (20, 3 * 30 + 2 * GAP, 3)
    assert (picture[:, :30] == 0).all()
    assert (picture[:, -30:] == overlay(image, mask)).all()

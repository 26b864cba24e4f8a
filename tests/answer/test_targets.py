import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segr1_jax.answer.grammar import parse, render, sam_prompts
from segr1_jax.answer.targets import target_answer, thinking_lines
from segr1_jax.data.config import DataConfig
from segr1_jax.data.synthetic import generate
from segr1_jax.errors import UserError
from segr1_jax.types import Frame, ParseStatus

FRAME = Frame(168, 168)


@pytest.mark.parametrize("size", [168, 96, 300])
@pytest.mark.parametrize("index", range(6))
def test_answers_read_back_and_points_stand_where_their_label_says(size, index):
    mask = generate(DataConfig(size=size, max_objects=3), index).mask
    answer = target_answer(mask, FRAME, interior=3, exterior=2)
    assert parse(render(answer), FRAME) == (answer, ParseStatus.OK)
    assert answer.labels[:3] == (1, 1, 1)
    assert answer.thinking in thinking_lines()

    (prompt,) = sam_prompts(answer, Frame(size, size))
    assert len(prompt.points) == len(answer.points)
    columns, rows = prompt.points.astype(int).T
    np.testing.assert_array_equal(mask[rows, columns], prompt.labels == 1)
    ys, xs = np.nonzero(mask)
    tight = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    # Rounding to whole pixels of the model frame moves an edge by half of one at most.
    np.testing.assert_allclose(prompt.box, tight, atol=0.5 * size / FRAME.width + 1e-4)


@settings(max_examples=50)
@given(st.data())
def test_any_mask_with_a_pixel_has_an_answer(data):
    height, width = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 400))
    mask = np.zeros((height, width), bool)
    for _ in range(data.draw(st.integers(1, 3))):
        mask[data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))] = True
    answer = target_answer(mask, FRAME, interior=2, exterior=1)
    assert parse(render(answer), FRAME) == (answer, ParseStatus.OK)


def test_hand_worked_answer():
    mask = np.zeros((100, 200), bool)
    mask[20:80, 40:160] = True  # in a 100 x 100 frame: x 20..80, y 20..80
    mask[20:50, 40:100] = False  # its top left quarter is missing
    answer = target_answer(mask, Frame(100, 100), interior=1, exterior=1)
    assert answer.boxes == ((20, 20, 80, 80),)
    assert answer.labels == (1, 0)
    assert answer.thinking == "a large object at the middle center"
    (x, y), (out_x, out_y) = answer.points
    assert (
        abs(x - 62) <= 2
    )  # the largest circle in the L touches its outer corner's sides and the inner corner
    assert abs(y - 62) <= 2
    assert (out_x, out_y) == (20, 20)  # the corner of the box farthest from the mask


def test_loose_boxes_by_hand():
    mask = np.zeros((100, 100), bool)
    mask[30:70, 5:85] = True  # 80 wide, 40 high: a quarter of it is 20 and 10
    tight = target_answer(mask, Frame(100, 100), interior=2, exterior=0)
    loose = target_answer(mask, Frame(100, 100), interior=2, exterior=0, box_margin=0.25)
    assert tight.boxes == ((5, 30, 85, 70),)
    assert loose.boxes == ((0, 20, 100, 80),)  # cut at the frame on both sides
    assert (loose.points, loose.labels, loose.thinking) == (
        tight.points,
        tight.labels,
        tight.thinking,
    )


def test_full_box_leaves_no_exterior_point():
    answer = target_answer(np.ones((50, 50), bool), FRAME, interior=1, exterior=2)
    assert answer.labels == (1,)


def test_empty_mask_is_named():
    with pytest.raises(UserError, match="empty mask"):
        target_answer(np.zeros((5, 5), bool), FRAME, interior=1, exterior=1)

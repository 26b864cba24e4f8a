"""Target answers for the cold start (SFT), each a function of the mask alone.

Shape legend: H W native mask; h w box of the object on the model's integer grid, with a margin of
one pixel; K points, I on the mask and E off it.
"""

import math
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from segr1_jax.common.frames import convert_box
from segr1_jax.errors import UserError
from segr1_jax.types import Answer, Frame

SIZES = ("small", "medium", "large")
SIZE_STEPS = (0.04, 0.16)  # between two sizes: share of the frame that the box covers
PLACES = tuple(product(("top", "middle", "bottom"), ("left", "center", "right")))
MIN_CLEARANCE = 2.0  # pixels of the model frame between an exterior point and the mask


def target_answer(
    mask_HW: Bool[np.ndarray, "H W"],
    frame: Frame,
    *,
    interior: int,
    exterior: int,
    box_margin: float = 0.0,
    name: str = "mask",
) -> Answer:
    """Return the answer that describes `mask_HW` (native pixels) in pixels of the model's `frame`.

    Box: one box around the whole mask, even where the mask has several parts. It is tight, or wider
    on every side by `box_margin` of its width and height, like boxes that people draw.
    Points: `interior` points (at least 1) on the mask, the first at the greatest depth, each
    next one a trade-off between depth and distance from those before; then up to `exterior` points
    inside the box but off the mask, chosen the same way, fewer where the mask leaves no room.
    Thinking: one line that names the size and the place of the object.
    Nothing is random, so the policy can learn the answer from the image. Raises UserError for an
    empty mask.

    Example:
        >>> mask = np.zeros((56, 56), bool)
        >>> mask[4:25, 4:25] = True
        >>> answer = target_answer(mask, Frame(56, 56), interior=1, exterior=1)
        >>> answer.boxes, answer.points, answer.labels, answer.thinking
        (((4, 4, 25, 25),), ((14, 14),), (1,), 'a medium object at the top left')
    """
    if not mask_HW.any():
        raise UserError(
            name,
            expected="a mask with at least one pixel set",
            got="an empty mask",
            remedy="leave the sample out of training",
        )
    box = _tight_box(mask_HW, frame)
    on_I2, off_E2 = _points(_on_grid(mask_HW, frame, box), interior, exterior)
    origin = np.array(box[:2]) - 1
    points_K2 = np.concatenate([on_I2 + origin, off_E2 + origin])
    return Answer(
        thinking=_thinking(box, frame),
        boxes=(_widened(box, frame, box_margin),),
        points=tuple((int(x), int(y)) for x, y in points_K2),
        labels=(1,) * len(on_I2) + (0,) * len(off_E2),
        frame=frame,
    )


def thinking_lines() -> list[str]:
    """Return every line of thinking that `target_answer` can write."""
    return [_line(size, place) for size in SIZES for place in PLACES]


def _tight_box(mask_HW: Bool[np.ndarray, "H W"], frame: Frame) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    native = Frame(width=mask_HW.shape[1], height=mask_HW.shape[0])
    edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    x1, y1, x2, y2 = (int(v) for v in np.rint(convert_box(edges, native, frame)))
    x1, y1 = min(x1, frame.width - 1), min(y1, frame.height - 1)
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def _widened(
    box: tuple[int, int, int, int], frame: Frame, margin: float
) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = box
    dx, dy = round(margin * (x2 - x1)), round(margin * (y2 - y1))
    return max(x1 - dx, 0), max(y1 - dy, 0), min(x2 + dx, frame.width), min(y2 + dy, frame.height)


def _on_grid(
    mask_HW: Bool[np.ndarray, "H W"], frame: Frame, box: tuple[int, int, int, int]
) -> Bool[np.ndarray, "h w"]:
    """Return the mask at the integer points of the model frame, in the box and one pixel around it.

    A point set here is on the mask after conversion to native pixels. The margin is always
    background.
    """
    height, width = mask_HW.shape
    x1, y1, x2, y2 = box
    columns = np.minimum(np.arange(x1, x2) * width // frame.width, width - 1)
    rows = np.minimum(np.arange(y1, y2) * height // frame.height, height - 1)
    grid = np.pad(mask_HW[np.ix_(rows, columns)], 1)
    # A mask thinner than a step of the grid may fall between its points: set the middle point.
    if not grid.any():
        grid[grid.shape[0] // 2, grid.shape[1] // 2] = True
    return grid


def _points(
    inside_hw: Bool[np.ndarray, "h w"], interior: int, exterior: int
) -> tuple[Int[np.ndarray, "I 2"], Int[np.ndarray, "E 2"]]:
    """Return the points on the mask and those off it, as (x, y) on the grid of `_on_grid`."""
    # Points off the mask are inside the box, so not on the margin, and clear of the mask.
    outside_hw = ~inside_hw
    outside_hw[[0, -1]] = outside_hw[:, [0, -1]] = False
    clear_hw = ndimage.distance_transform_edt(~inside_hw) * outside_hw
    clear_hw[clear_hw < MIN_CLEARANCE] = 0
    on_I2 = _spread(ndimage.distance_transform_edt(inside_hw), interior)
    return on_I2, _spread(clear_hw, exterior)


def _spread(depth_hw: Float[np.ndarray, "h w"], count: int) -> Int[np.ndarray, "K 2"]:
    """Choose up to `count` (x, y) grid points of positive depth.

    The first has the greatest depth; each next one has the greatest product of depth and distance
    from the nearest point chosen before.
    """
    score_hw = depth_hw.copy()
    chosen = []
    ys, xs = np.indices(depth_hw.shape)
    nearest_hw = np.full(depth_hw.shape, np.inf)
    while len(chosen) < count and score_hw.max() > 0:
        y, x = np.unravel_index(int(score_hw.argmax()), score_hw.shape)
        chosen.append((x, y))
        nearest_hw = np.minimum(nearest_hw, np.hypot(xs - x, ys - y))
        score_hw = depth_hw * nearest_hw
    return np.array(chosen, np.int64).reshape(-1, 2)


def _thinking(box: tuple[int, int, int, int], frame: Frame) -> str:
    x1, y1, x2, y2 = box
    share = (x2 - x1) * (y2 - y1) / (frame.width * frame.height)
    row = math.floor(1.5 * (y1 + y2) / frame.height)
    column = math.floor(1.5 * (x1 + x2) / frame.width)
    return _line(
        SIZES[int(np.searchsorted(SIZE_STEPS, share))], PLACES[3 * min(row, 2) + min(column, 2)]
    )


def _line(size: str, place: tuple[str, str]) -> str:
    return f"a {size} object at the {' '.join(place)}"

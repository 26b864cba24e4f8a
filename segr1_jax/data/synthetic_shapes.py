"""Shapes of the synthetic set: their outlines, rasterization and placement.

Shapes are mostly concave, so a filled box is a clearly worse answer than the mask.

Shape legend: N image side in pixels; h w size of one object's crop.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

# Maps points (u, v) of [-1, 1] squared to whether they are inside the shape.
Inside = Callable[[np.ndarray, np.ndarray], np.ndarray]

SIDE_RANGE = (0.15, 0.60)  # long side of an object, share of the image side
PLACEMENT_TRIES = 12  # random places for one object before it is made smaller
SHRINK = 0.8


def place_shapes(rng: np.random.Generator, side: int, count: int) -> list[Bool[np.ndarray, "N N"]]:
    """Return disjoint masks of up to `count` objects (at least one), each inside the image.

    An object for which no free place is found is shrunk, and is left out if it becomes too small.
    """
    taken_NN = np.zeros((side, side), bool)
    masks = []
    for _ in range(count):
        length = side * rng.uniform(*SIDE_RANGE)
        inside = SHAPES[rng.choice(len(SHAPES), p=SHAPE_ODDS)](rng)
        while length >= side * SIDE_RANGE[0]:
            crop_hw = _rasterize(inside, length)
            where = _free_place(rng, taken_NN, crop_hw)
            if where is not None:
                mask_NN = np.zeros((side, side), bool)
                mask_NN[where] = crop_hw
                taken_NN |= mask_NN
                masks.append(mask_NN)
                break
            length *= SHRINK
    return masks


def _free_place(
    rng: np.random.Generator, taken_NN: np.ndarray, crop_hw: np.ndarray
) -> tuple[slice, slice] | None:
    """Return a random place where the crop covers no taken pixel; None if all tries fail."""
    side = len(taken_NN)
    h, w = crop_hw.shape
    for y, x in rng.integers((0, 0), (side - h + 1, side - w + 1), (PLACEMENT_TRIES, 2)):
        where = slice(y, y + h), slice(x, x + w)
        if not (taken_NN[where] & crop_hw).any():
            return where
    return None


def _rasterize(inside: Inside, length: float) -> Bool[np.ndarray, "h w"]:
    """Return the mask of a shape of the unit disc, cut to its box.

    The shape is scaled so that its long side is about `length` pixels.
    """
    rough = cut_to_box(inside(*_disc_grid(48)))
    return cut_to_box(inside(*_disc_grid(round(length * 48 / max(rough.shape)))))


def _disc_grid(steps: int) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    axis = (np.arange(steps, dtype=np.float32) + 0.5) * (2 / steps) - 1
    return tuple(np.meshgrid(axis, axis))


def bounding_box(mask_HW: Bool[np.ndarray, "H W"]) -> tuple[slice, slice]:
    """Return the rows and columns of the smallest box around the mask."""
    rows = np.flatnonzero(mask_HW.any(1))
    columns = np.flatnonzero(mask_HW.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def cut_to_box(mask_HW: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "h w"]:
    """Return the mask inside its bounding box."""
    return mask_HW[bounding_box(mask_HW)]


def _ellipse(rng: np.random.Generator) -> Inside:
    turn = _turn(rng)
    ratio = rng.uniform(0.3, 0.8)
    return lambda u, v: np.hypot(*_stretch(turn(u, v), ratio)) < 1


def _rounded_box(rng: np.random.Generator) -> Inside:
    turn = _turn(rng)
    ratio = rng.uniform(0.25, 0.8)
    corner = rng.uniform(3, 8)
    scale = (1 + ratio**2) ** 0.5  # the corners of the box touch the unit circle

    def inside(u, v):
        x, y = turn(u, v)
        return np.abs(x * scale) ** corner + np.abs(y * scale / ratio) ** corner < 1

    return inside


def _blob(rng: np.random.Generator) -> Inside:
    phases = rng.uniform(0, 2 * np.pi, 4)
    heights = rng.normal(0, 1, 4) * (0.32, 0.22, 0.14, 0.08)
    turn = _turn(rng)
    ratio = rng.uniform(0.5, 1)

    def inside(u, v):
        x, y = _stretch(turn(u, v), ratio)
        angle = np.arctan2(y, x)
        # The radius as a function of the angle: 1 plus waves with 2 to 5 periods.
        wave = sum(
            height * np.cos(periods * angle + phase)
            for periods, (height, phase) in enumerate(zip(heights, phases, strict=True), 2)
        )
        return np.hypot(x, y) * (1 + np.abs(heights).sum()) < np.maximum(1 + wave, 0.25)

    return inside


def _star(rng: np.random.Generator) -> Inside:
    arms = int(rng.integers(3, 7))
    core = rng.uniform(0.25, 0.5)
    turn = _turn(rng)

    def inside(u, v):
        x, y = turn(u, v)
        # 1 in the direction of an arm, 0 between two arms.
        spike = np.abs((np.arctan2(y, x) * (arms / np.pi)) % 2 - 1)
        return np.hypot(x, y) < core + (1 - core) * spike**1.5

    return inside


def _crescent(rng: np.random.Generator) -> Inside:
    shift = rng.uniform(0.35, 0.65)
    cut_radius = rng.uniform(0.7, 0.95)
    turn = _turn(rng)

    def inside(u, v):
        x, y = turn(u, v)
        return (np.hypot(x, y) < 1) & (np.hypot(x - shift, y) > cut_radius)

    return inside


SHAPES = (_ellipse, _rounded_box, _blob, _star, _crescent)
SHAPE_ODDS = (0.15, 0.15, 0.25, 0.25, 0.2)


def _turn(rng: np.random.Generator) -> Callable:
    """Return a random rotation of (u, v)."""
    angle = rng.uniform(0, 2 * np.pi)
    c = np.float32(np.cos(angle))
    s = np.float32(np.sin(angle))
    return lambda u, v: (c * u + s * v, c * v - s * u)


def _stretch(xy: tuple[np.ndarray, np.ndarray], ratio: float) -> tuple[np.ndarray, np.ndarray]:
    return xy[0], xy[1] / np.float32(ratio)

"""A deterministic synthetic segmentation set that looks like the task: objects of three difficulties, sentences that pick one.

A sample is a pure function of (config, index): the random stream is keyed on (seed, level, index), so sets of different seeds
never share a stream. Shapes are mostly concave, so filling the box is clearly worse than the mask.

Shape legend: N image side in pixels; h w size of one object's crop; K objects.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from segr1_jax.data.config import LEVELS, DataConfig
from segr1_jax.errors import UserError
from segr1_jax.types import Example

Inside = Callable[
    [np.ndarray, np.ndarray], np.ndarray
]  # points (u, v) of [-1, 1] squared -> whether they lie in the shape

PALETTE = {
    "red": (235, 50, 45),
    "orange": (245, 150, 30),
    "yellow": (240, 230, 60),
    "green": (60, 205, 70),
    "cyan": (70, 220, 225),
    "blue": (70, 95, 245),
    "purple": (190, 70, 230),
    "white": (235, 235, 235),
}
SIDE_RANGE = (0.15, 0.60)  # long side of an object, share of the image side
PLACEMENT_TRIES = 12  # random places for one object before it is made smaller
SHRINK = 0.8
CLEAR_AREA_RATIO = (
    1.3  # "largest" and "smallest" are said when the runner-up differs by this factor
)
CLEAR_SHIFT = (
    0.08  # "leftmost" and so on are said when the centroids are this share of the side apart
)


class Scene(NamedTuple):
    """One rendered image with its objects. `masks` are disjoint; `colours` are palette names, empty where the level has none."""

    image: UInt8[np.ndarray, "N N 3"]
    masks: list[Bool[np.ndarray, "N N"]]
    colours: list[str]


class Texture(NamedTuple):
    """A grating bent by smooth noise: mean colour, colour swing, wave vector (radians per pixel), bend and pixel grain."""

    colour: Float[np.ndarray, " 3"]
    swing: Float[np.ndarray, " 3"]
    wave: Float[np.ndarray, " 2"]
    bend: float
    grain: float


def generate(config: DataConfig, index: int) -> Example:
    """Sample `index` of the synthetic set: RGB image of config.size squared, mask, and a sentence if config.sentences.

    With sentences the mask is the one object that the sentence picks; without, all objects of the image joined.

    Example:
        >>> generate(DataConfig(size=64), 7).image.shape
        (64, 64, 3)
    """
    image, masks, colours = scene(config, index)
    name = f"{config.level}-{config.seed}-{index:06d}"
    if not config.sentences:
        return Example(id=index, name=name, image=image, mask=np.logical_or.reduce(masks))
    options = sentences(masks, colours)
    target, sentence = options[_stream(config, index, purpose=1).integers(len(options))]
    return Example(id=index, name=name, image=image, mask=masks[target], instruction=sentence)


def scene(config: DataConfig, index: int) -> Scene:
    """Image `index` with the masks of its 1 to config.max_objects objects, in painting order."""
    rng = _stream(config, index, purpose=0)
    masks = _place(rng, config.size, int(rng.integers(1, config.max_objects + 1)))
    if config.level == "bright":
        return _paint_bright(rng, masks)
    names = [str(name) for name in rng.permutation(list(PALETTE))[: len(masks)]]
    ground = _random_texture(rng, rng.uniform(40, 200, 3))
    image = _render(rng, ground, (config.size, config.size))
    for mask, name in zip(masks, names, strict=True):
        coat = (
            _random_texture(rng, np.array(PALETTE[name]) * 0.85)
            if config.level == "salient"
            else _camouflage(rng, ground)
        )
        crop_hw = _cut_to_box(mask)
        image[_box(mask)][crop_hw] = _render(rng, coat, crop_hw.shape)[crop_hw]
    return Scene(_to_uint8(image), masks, names if config.level == "salient" else [])


def sentences(masks: list[Bool[np.ndarray, "N N"]], colours: list[str]) -> list[tuple[int, str]]:
    """Every (object, sentence) that is unambiguous for these masks: by colour, else by size or position; never empty.

    Example: a red object left of a larger blue one gives (0, "the red object"), (0, "the smallest object"), (0, "the leftmost object") ...
    """
    options = [
        (k, f"the {name} object") for k, name in enumerate(colours) if colours.count(name) == 1
    ]
    if len(masks) == 1:
        return options or [(0, "the object")]
    log_area_K = np.log([mask.sum() for mask in masks]) / np.log(CLEAR_AREA_RATIO)
    centroid_K2 = np.array([np.argwhere(mask).mean(0) for mask in masks]) / (
        CLEAR_SHIFT * masks[0].shape[0]
    )
    words = ("smallest", "largest"), ("topmost", "bottommost"), ("leftmost", "rightmost")
    ranked = []
    for (low, high), value_K in zip(words, (log_area_K, *centroid_K2.T), strict=True):
        order = np.argsort(value_K)
        ranked.append((value_K[order[1]] - value_K[order[0]], int(order[0]), f"the {low} object"))
        ranked.append(
            (value_K[order[-1]] - value_K[order[-2]], int(order[-1]), f"the {high} object")
        )
    options += [(k, sentence) for margin, k, sentence in ranked if margin >= 1]
    return options or [max(ranked)[1:]]


def _stream(config: DataConfig, index: int, purpose: int) -> np.random.Generator:
    if index < 0 or config.seed < 0:
        raise UserError(
            "synthetic sample",
            expected="seed and index >= 0",
            got=f"seed {config.seed}, index {index}",
            remedy="use non-negative numbers",
        )
    word = (LEVELS.index(config.level) << 60) | (purpose << 56) | index
    return np.random.Generator(np.random.Philox(key=np.array([config.seed, word], np.uint64)))


def _place(rng: np.random.Generator, side: int, count: int) -> list[Bool[np.ndarray, "N N"]]:
    """Disjoint masks of up to `count` objects (at least one), each anywhere inside the image."""
    taken_NN = np.zeros((side, side), bool)
    masks = []
    for _ in range(count):
        length = side * rng.uniform(*SIDE_RANGE)
        draw = SHAPES[rng.choice(len(SHAPES), p=SHAPE_ODDS)](rng)
        while length >= side * SIDE_RANGE[0]:
            crop_hw = _rasterise(draw, length)
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
    """Where the crop covers no taken pixel, of some random places; None if all fail."""
    side, (h, w) = len(taken_NN), crop_hw.shape
    for y, x in rng.integers((0, 0), (side - h + 1, side - w + 1), (PLACEMENT_TRIES, 2)):
        where = slice(y, y + h), slice(x, x + w)
        if not (taken_NN[where] & crop_hw).any():
            return where
    return None


def _rasterise(inside: Inside, length: float) -> Bool[np.ndarray, "h w"]:
    """The shape `inside(u, v)` of the unit disc, scaled so that its long side is about `length` pixels, cut to its box."""
    rough = _cut_to_box(inside(*_disc_grid(48)))
    return _cut_to_box(inside(*_disc_grid(round(length * 48 / max(rough.shape)))))


def _disc_grid(steps: int) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    axis = (np.arange(steps, dtype=np.float32) + 0.5) * (2 / steps) - 1
    return tuple(np.meshgrid(axis, axis))


def _box(mask: Bool[np.ndarray, "h w"]) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _cut_to_box(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "h w"]:
    return mask[_box(mask)]


def _ellipse(rng: np.random.Generator) -> Inside:
    turn, ratio = _turn(rng), rng.uniform(0.3, 0.8)
    return lambda u, v: np.hypot(*_stretch(turn(u, v), ratio)) < 1


def _rounded_box(rng: np.random.Generator) -> Inside:
    turn, ratio, corner = _turn(rng), rng.uniform(0.25, 0.8), rng.uniform(3, 8)
    scale = (1 + ratio**2) ** 0.5  # its corners touch the unit circle

    def inside(u, v):
        x, y = turn(u, v)
        return np.abs(x * scale) ** corner + np.abs(y * scale / ratio) ** corner < 1

    return inside


def _blob(rng: np.random.Generator) -> Inside:
    phases, heights = rng.uniform(0, 2 * np.pi, 4), rng.normal(0, 1, 4) * (0.32, 0.22, 0.14, 0.08)
    turn, ratio = _turn(rng), rng.uniform(0.5, 1)

    def inside(u, v):
        x, y = _stretch(turn(u, v), ratio)
        angle = np.arctan2(y, x)
        wave = sum(
            a * np.cos(k * angle + p)
            for k, (a, p) in enumerate(zip(heights, phases, strict=True), 2)
        )
        return np.hypot(x, y) * (1 + np.abs(heights).sum()) < np.maximum(1 + wave, 0.25)

    return inside


def _star(rng: np.random.Generator) -> Inside:
    arms, core, turn = int(rng.integers(3, 7)), rng.uniform(0.25, 0.5), _turn(rng)

    def inside(u, v):
        x, y = turn(u, v)
        spike = np.abs(
            (np.arctan2(y, x) * (arms / np.pi)) % 2 - 1
        )  # 1 at the tip of an arm, 0 between two
        return np.hypot(x, y) < core + (1 - core) * spike**1.5

    return inside


def _crescent(rng: np.random.Generator) -> Inside:
    shift, bite, turn = rng.uniform(0.35, 0.65), rng.uniform(0.7, 0.95), _turn(rng)

    def inside(u, v):
        x, y = turn(u, v)
        return (np.hypot(x, y) < 1) & (np.hypot(x - shift, y) > bite)

    return inside


SHAPES = (_ellipse, _rounded_box, _blob, _star, _crescent)
SHAPE_ODDS = (0.15, 0.15, 0.25, 0.25, 0.2)


def _turn(rng: np.random.Generator) -> Callable:
    """A random rotation of (u, v)."""
    angle = rng.uniform(0, 2 * np.pi)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return lambda u, v: (c * u + s * v, c * v - s * u)


def _stretch(xy: tuple[np.ndarray, np.ndarray], ratio: float) -> tuple[np.ndarray, np.ndarray]:
    return xy[0], xy[1] / np.float32(ratio)


def _paint_bright(rng: np.random.Generator, masks: list) -> Scene:
    """Smoothly shaded objects in palette colours over dark pixel noise."""
    side = masks[0].shape[0]
    names = [str(name) for name in rng.permutation(list(PALETTE))[: len(masks)]]
    image = rng.integers(0, 60, (side, side, 3), np.uint8).astype(np.float32)
    axis = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    for mask, name in zip(masks, names, strict=True):
        slope_x, slope_y = rng.uniform(-0.3, 0.3, 2)
        shade_NN = (
            np.float32(0.95) + np.float32(slope_x) * axis + np.float32(slope_y) * axis[:, None]
        )
        image[mask] = shade_NN[mask][:, None] * np.array(PALETTE[name], np.float32)
    return Scene(_to_uint8(image), masks, names)


def _random_texture(rng: np.random.Generator, colour: Float[np.ndarray, " 3"]) -> Texture:
    angle, period = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(5), np.log(24)))
    wave = 2 * np.pi / period * np.array([np.cos(angle), np.sin(angle)])
    swing = rng.uniform(0.5, 1, 3) * rng.uniform(10, 40)
    return Texture(np.asarray(colour, float), swing, wave, rng.uniform(0.5, 4), rng.uniform(2, 10))


def _camouflage(rng: np.random.Generator, ground: Texture) -> Texture:
    """A coat close to its ground: colour off by some 18 to 34 grey levels, waves of the same length in another direction."""
    direction = rng.normal(0, 1, 3)
    shift = direction / np.linalg.norm(direction) * rng.uniform(18, 34)
    angle = rng.uniform(0.4, 1.2) * rng.choice((-1, 1))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return ground._replace(
        colour=ground.colour + shift, wave=turn @ ground.wave * rng.uniform(0.8, 1.25)
    )


def _render(
    rng: np.random.Generator, texture: Texture, shape: tuple[int, int]
) -> Float[np.ndarray, "h w 3"]:
    y_h, x_w = (np.arange(n, dtype=np.float32) for n in shape)
    smooth_hw = _smooth_noise(rng, y_h, x_w)
    wave_x, wave_y = texture.wave.astype(np.float32)
    phase_hw = wave_x * x_w + (wave_y * y_h)[:, None] + np.float32(texture.bend) * smooth_hw
    pattern_hw = np.sin(phase_hw) + np.float32(0.7) * smooth_hw
    grain_hw = rng.standard_normal(shape, np.float32) * np.float32(texture.grain)
    return pattern_hw[..., None] * texture.swing.astype(np.float32) + (
        grain_hw[..., None] + texture.colour.astype(np.float32)
    )


def _smooth_noise(rng: np.random.Generator, y_h, x_w, cells: int = 6) -> Float[np.ndarray, "h w"]:
    """A random grid of cells squared, stretched over the crop by linear interpolation in x and y."""
    knots = np.arange(cells, dtype=np.float32)
    weight_y, weight_x = (
        np.maximum(0, 1 - np.abs(at[:, None] * ((cells - 1) / len(at)) - knots))
        for at in (y_h, x_w)
    )
    return weight_y @ rng.standard_normal((cells, cells), np.float32) @ weight_x.T


def _to_uint8(image: Float[np.ndarray, "N N 3"]) -> UInt8[np.ndarray, "N N 3"]:
    return np.clip(image, 0, 255).astype(np.uint8)

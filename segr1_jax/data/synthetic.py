"""Synthetic segmentation set: objects of three difficulties, and sentences that select one.

A sample is a pure function of (config, index). The random stream is keyed on (seed, level, index),
so sets of different seeds never share a stream.

Shape legend: N image side in pixels; h w size of one object's crop; K objects.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from segr1_jax.data.config import LEVELS, DataConfig
from segr1_jax.data.synthetic_shapes import bounding_box, cut_to_box, place_shapes
from segr1_jax.data.synthetic_textures import camouflage, random_texture, render
from segr1_jax.errors import UserError
from segr1_jax.types import Example

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
# "largest" and "smallest" are used where the areas of the first two differ by this factor.
CLEAR_AREA_RATIO = 1.3
# "leftmost" and so on are used where the centroids of the first two differ by this share of a side.
CLEAR_SHIFT = 0.08


class Scene(NamedTuple):
    """Rendered image with its objects.

    `masks` are disjoint. `colors` are names of the palette, empty for a level without colors.
    """

    image: UInt8[np.ndarray, "N N 3"]
    masks: list[Bool[np.ndarray, "N N"]]
    colors: list[str]


def generate(config: DataConfig, index: int) -> Example:
    """Return sample `index` of the synthetic set, an RGB image of config.size squared.

    With config.sentences the mask is the object that the sample's sentence selects, otherwise the
    union of all objects.

    Example:
        >>> generate(DataConfig(size=64), 7).image.shape
        (64, 64, 3)
    """
    image, masks, colors = scene(config, index)
    name = f"{config.level}-{config.seed}-{index:06d}"
    if not config.sentences:
        return Example(id=index, name=name, image=image, mask=np.logical_or.reduce(masks))
    options = sentences(masks, colors)
    target, sentence = options[_stream(config, index, purpose=1).integers(len(options))]
    return Example(id=index, name=name, image=image, mask=masks[target], instruction=sentence)


def scene(config: DataConfig, index: int) -> Scene:
    """Return image `index` and the masks of its 1 to config.max_objects objects."""
    rng = _stream(config, index, purpose=0)
    masks = place_shapes(rng, config.size, int(rng.integers(1, config.max_objects + 1)))
    if config.level == "bright":
        return _paint_bright(rng, masks)
    names = [str(name) for name in rng.permutation(list(PALETTE))[: len(masks)]]
    ground = random_texture(rng, rng.uniform(40, 200, 3))
    image = render(rng, ground, (config.size, config.size))
    for mask, name in zip(masks, names, strict=True):
        color = np.array(PALETTE[name]) * 0.85
        is_salient = config.level == "salient"
        texture = random_texture(rng, color) if is_salient else camouflage(rng, ground)
        crop_hw = cut_to_box(mask)
        image[bounding_box(mask)][crop_hw] = render(rng, texture, crop_hw.shape)[crop_hw]
    return Scene(_to_uint8(image), masks, names if config.level == "salient" else [])


def sentences(masks: list[Bool[np.ndarray, "N N"]], colors: list[str]) -> list[tuple[int, str]]:
    """Return every (object, sentence) that is unambiguous for these masks, at least one.

    Sentences select by color, size and position. For example, a red object left of a larger blue
    one gives (0, "the red object"), (0, "the smallest object"), (0, "the leftmost object") and the
    corresponding sentences for object 1.
    """
    options = [
        (k, f"the {name} object") for k, name in enumerate(colors) if colors.count(name) == 1
    ]
    if len(masks) == 1:
        return options or [(0, "the object")]
    # In units of the least clear difference: 1 or more is clear.
    log_area_K = np.log([mask.sum() for mask in masks]) / np.log(CLEAR_AREA_RATIO)
    centroids = np.array([np.argwhere(mask).mean(0) for mask in masks])
    centroid_K2 = centroids / (CLEAR_SHIFT * masks[0].shape[0])
    words = ("smallest", "largest"), ("topmost", "bottommost"), ("leftmost", "rightmost")
    ranked = []
    for (low, high), value_K in zip(words, (log_area_K, *centroid_K2.T), strict=True):
        order = np.argsort(value_K)
        low_margin = value_K[order[1]] - value_K[order[0]]
        high_margin = value_K[order[-1]] - value_K[order[-2]]
        ranked.append((low_margin, int(order[0]), f"the {low} object"))
        ranked.append((high_margin, int(order[-1]), f"the {high} object"))
    options += [(k, sentence) for margin, k, sentence in ranked if margin >= 1]
    return options or [max(ranked)[1:]]


def _stream(config: DataConfig, index: int, purpose: int) -> np.random.Generator:
    """Return the random stream of a sample, for its scene (purpose 0) or its sentence (1)."""
    if index < 0 or config.seed < 0:
        raise UserError(
            "synthetic sample",
            expected="seed and index >= 0",
            got=f"seed {config.seed}, index {index}",
            remedy="use non-negative numbers",
        )
    word = (LEVELS.index(config.level) << 60) | (purpose << 56) | index
    return np.random.Generator(np.random.Philox(key=np.array([config.seed, word], np.uint64)))


def _paint_bright(rng: np.random.Generator, masks: list) -> Scene:
    """Paint smoothly shaded objects in palette colors over dark pixel noise."""
    side = masks[0].shape[0]
    names = [str(name) for name in rng.permutation(list(PALETTE))[: len(masks)]]
    image = rng.integers(0, 60, (side, side, 3), np.uint8).astype(np.float32)
    axis = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    for mask, name in zip(masks, names, strict=True):
        slope_x, slope_y = (np.float32(slope) for slope in rng.uniform(-0.3, 0.3, 2))
        shade_NN = np.float32(0.95) + slope_x * axis + slope_y * axis[:, None]
        image[mask] = shade_NN[mask][:, None] * np.array(PALETTE[name], np.float32)
    return Scene(_to_uint8(image), masks, names)


def _to_uint8(image: Float[np.ndarray, "N N 3"]) -> UInt8[np.ndarray, "N N 3"]:
    return np.clip(image, 0, 255).astype(np.uint8)

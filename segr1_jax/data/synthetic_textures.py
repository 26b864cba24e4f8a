"""Textures of the synthetic set: gratings bent by smooth noise.

Shape legend: h w size of the rendered crop.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Texture(NamedTuple):
    """Grating bent by smooth noise.

    Attributes:
        color: mean RGB color.
        swing: amplitude of the grating in each channel.
        wave: wave vector (x, y) in radians per pixel.
        bend: strength of the noise in the phase, in radians.
        grain: standard deviation of the pixel noise.
    """

    color: Float[np.ndarray, " 3"]
    swing: Float[np.ndarray, " 3"]
    wave: Float[np.ndarray, " 2"]
    bend: float
    grain: float


def random_texture(rng: np.random.Generator, color: Float[np.ndarray, " 3"]) -> Texture:
    """Return a texture of the given mean color, with a period of 5 to 24 pixels."""
    angle = rng.uniform(0, np.pi)
    period = np.exp(rng.uniform(np.log(5), np.log(24)))
    return Texture(
        color=np.asarray(color, float),
        swing=rng.uniform(0.5, 1, 3) * rng.uniform(10, 40),
        wave=2 * np.pi / period * np.array([np.cos(angle), np.sin(angle)]),
        bend=rng.uniform(0.5, 4),
        grain=rng.uniform(2, 10),
    )


def camouflage(rng: np.random.Generator, ground: Texture) -> Texture:
    """Return a texture close to `ground`.

    Its color differs by 18 to 34 gray levels, and its waves are of similar length in another
    direction.
    """
    direction = rng.normal(0, 1, 3)
    shift = direction / np.linalg.norm(direction) * rng.uniform(18, 34)
    angle = rng.uniform(0.4, 1.2) * rng.choice((-1, 1))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return ground._replace(
        color=ground.color + shift, wave=turn @ ground.wave * rng.uniform(0.8, 1.25)
    )


def render(
    rng: np.random.Generator, texture: Texture, shape: tuple[int, int]
) -> Float[np.ndarray, "h w 3"]:
    """Return float32 pixels of a texture, which may exceed [0, 255]."""
    y_h, x_w = (np.arange(n, dtype=np.float32) for n in shape)
    smooth_hw = _smooth_noise(rng, y_h, x_w)
    wave_x, wave_y = texture.wave.astype(np.float32)
    phase_hw = wave_x * x_w + (wave_y * y_h)[:, None] + np.float32(texture.bend) * smooth_hw
    pattern_hw = np.sin(phase_hw) + np.float32(0.7) * smooth_hw
    grain_hw = rng.standard_normal(shape, np.float32) * np.float32(texture.grain)
    noisy_hw3 = grain_hw[..., None] + texture.color.astype(np.float32)
    return pattern_hw[..., None] * texture.swing.astype(np.float32) + noisy_hw3


def _smooth_noise(rng: np.random.Generator, y_h, x_w, cells: int = 6) -> Float[np.ndarray, "h w"]:
    """Interpolate a random grid of `cells` x `cells` values linearly over the crop."""
    knots = np.arange(cells, dtype=np.float32)
    weight_y, weight_x = (
        np.maximum(0, 1 - np.abs(axis[:, None] * ((cells - 1) / len(axis)) - knots))
        for axis in (y_h, x_w)
    )
    return weight_y @ rng.standard_normal((cells, cells), np.float32) @ weight_x.T

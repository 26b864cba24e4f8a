"""RGB uint8 image -> normalised patches in the order of Hugging Face's Qwen2VLImageProcessor (Pillow backend).

Shape legend: H W image, N patches, M merge, C values per patch (channels * temporal_patch * patch * patch).
"""

import functools

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from segr1_jax.errors import UserError
from segr1_jax.prompt.vision import VisionSettings


def require_frame(height: int, width: int, vision: VisionSettings, where: str = "prompt.frame") -> None:
    """Raise UserError unless both sides are multiples of one merged unit (28 pixels)."""
    if height < 1 or width < 1 or height % vision.unit or width % vision.unit:
        raise UserError(
            where, expected=f"multiples of {vision.unit} pixels", got=f"{width}x{height}", remedy=f"round to a multiple of {vision.unit}"
        )


def stretch(image_HW3: UInt8[np.ndarray, "H W 3"], height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Resize to exactly `height` x `width` pixels with Pillow's bicubic filter, aspect ratio given up."""
    if image_HW3.shape[:2] == (height, width):
        return image_HW3
    return np.asarray(Image.fromarray(image_HW3).resize((width, height), Image.Resampling.BICUBIC))


def patchify(image_HW3: UInt8[np.ndarray, "H W 3"], vision: VisionSettings) -> Float[np.ndarray, "N C"]:
    """Normalised float32 patches, the M x M patches of a merged unit consecutive, units in raster order.

    A still image fills every frame of the temporal patch. Values equal the reference's bit for bit: there are only 256 per channel,
    so normalising is a table look-up. Source: Qwen2VLImageProcessorPil.patchify.
    """
    height, width, _ = image_HW3.shape
    require_frame(height, width, vision, where="image")
    patch, merge, unit = vision.patch, vision.merge, vision.unit
    tiles = image_HW3.reshape(height // unit, merge, patch, width // unit, merge, patch, 3)
    tiles_N3p = tiles.transpose(0, 3, 1, 4, 6, 2, 5).reshape(-1, 3, patch * patch)
    table = _normalised(vision.mean, vision.std)
    patches = np.empty((len(tiles_N3p), 3, vision.temporal_patch, patch * patch), np.float32)
    for channel in range(3):
        patches[:, channel] = table[channel][tiles_N3p[:, channel]][:, None]
    return patches.reshape(len(patches), -1)


@functools.cache
def _normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> Float[np.ndarray, "3 256"]:
    values = (np.arange(256) * (1 / 255)).astype(np.float32)
    return (values - np.array(mean, np.float32)[:, None]) / np.array(std, np.float32)[:, None]

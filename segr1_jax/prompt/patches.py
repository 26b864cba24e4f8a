"""Resizing of RGB images to the model frame, and their normalised patches.

Values equal those of Hugging Face's Qwen2VLImageProcessor (Pillow backend).

Shape legend: H W image; h w resized image; N patches; M merge; p values of one channel of a patch;
C values per patch (channels * temporal_patch * patch * patch).
"""

import functools
import math

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from segr1_jax.errors import UserError
from segr1_jax.prompt.config import PromptConfig
from segr1_jax.prompt.processor_settings import VisionSettings
from segr1_jax.types import Frame

MAX_ASPECT = 200  # longer side to shorter; transformers rejects larger ratios


def model_frame(native: Frame, config: PromptConfig, unit: int, where: str = "image") -> Frame:
    """Return the frame of the policy's input and answers for an image of `native` size.

    `unit` is VisionSettings.unit, in pixels.
    """
    if config.frame:
        return Frame(width=config.frame, height=config.frame)
    height, width = smart_resize(
        native.height, native.width, unit, config.min_pixels, config.max_pixels, where
    )
    return Frame(width=width, height=height)


def smart_resize(
    height: int, width: int, unit: int, min_pixels: int, max_pixels: int, where: str = "image"
) -> tuple[int, int]:
    """Return (height, width) in multiples of `unit`, with an area in [min_pixels, max_pixels].

    The aspect ratio stays close to the given one. A side is never shorter than one unit, so a very
    long image may exceed `max_pixels`. Raises UserError for an aspect ratio above MAX_ASPECT.
    Source: `smart_resize` of transformers (qwen2_vl), with the same rounding.

    Example:
        >>> smart_resize(480, 640, 28, 56 * 56, 756 * 756)
        (476, 644)
    """
    if max(height, width) / min(height, width) > MAX_ASPECT:
        expected, got = f"sides whose ratio is at most {MAX_ASPECT}", f"{width}x{height} pixels"
        raise UserError(where, expected=expected, got=got, remedy="crop the image or leave it out")
    rows, columns = round(height / unit), round(width / unit)
    area = rows * columns * unit**2
    if area > max_pixels:
        beta = math.sqrt((height * width) / max_pixels)
        rows, columns = (max(1, math.floor(side / beta / unit)) for side in (height, width))
    elif area < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        rows, columns = (math.ceil(side * beta / unit) for side in (height, width))
    return rows * unit, columns * unit


def require_frame(
    height: int, width: int, vision: VisionSettings, where: str = "prompt.frame"
) -> None:
    """Raise UserError unless both sides are multiples of one merged unit (28 pixels)."""
    if height < 1 or width < 1 or height % vision.unit or width % vision.unit:
        raise UserError(
            where,
            expected=f"multiples of {vision.unit} pixels",
            got=f"{width}x{height}",
            remedy=f"round to a multiple of {vision.unit}",
        )


def stretch(
    image_HW3: UInt8[np.ndarray, "H W 3"], height: int, width: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Resize to exactly `height` x `width` pixels with Pillow's bicubic filter.

    The aspect ratio is not kept.
    """
    if image_HW3.shape[:2] == (height, width):
        return image_HW3
    return np.asarray(Image.fromarray(image_HW3).resize((width, height), Image.Resampling.BICUBIC))


def patchify(
    image_HW3: UInt8[np.ndarray, "H W 3"], vision: VisionSettings
) -> Float[np.ndarray, "N C"]:
    """Cut an image into normalised float32 patches.

    The M x M patches of a merged unit are consecutive, and units are in raster order. A still image
    fills every frame of the temporal patch. Values are bit for bit those of the reference: a
    channel has only 256 values, so normalising is a table look-up.
    Source: Qwen2VLImageProcessorPil.patchify.
    """
    height, width, _ = image_HW3.shape
    require_frame(height, width, vision, where="image")
    patch, merge, unit = vision.patch, vision.merge, vision.unit
    # Axes after the transposition: row and column of the unit, row and column of the patch in its
    # unit, channel, pixels of the patch.
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

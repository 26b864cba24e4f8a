"""Resizing of RGB images to the model frame, and their patches.

Values equal those of Hugging Face's Qwen2VLImageProcessor (Pillow backend).

Shape legend: H W image; h w resized image; N patches; M merge; p values of one channel of a patch;
C pixel values per patch (3 * patch * patch); V inputs of the tower per patch (temporal_patch * C).
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


def cut_patches(
    image_HW3: UInt8[np.ndarray, "H W 3"], vision: VisionSettings
) -> UInt8[np.ndarray, "N C"]:
    """Cut an image into patches, channel by channel.

    The M x M patches of a merged unit are consecutive, and units are in raster order.
    Source: Qwen2VLImageProcessorPil.patchify.
    """
    height, width, _ = image_HW3.shape
    require_frame(height, width, vision, where="image")
    patch, merge, unit = vision.patch, vision.merge, vision.unit
    # Axes after the transposition: row and column of the unit, row and column of the patch in its
    # unit, channel, pixels of the patch.
    tiles = image_HW3.reshape(height // unit, merge, patch, width // unit, merge, patch, 3)
    return tiles.transpose(0, 3, 1, 4, 6, 2, 5).reshape(-1, 3 * patch * patch)


@functools.cache
def normalized_levels(vision: VisionSettings) -> Float[np.ndarray, "3 256"]:
    """Return the float32 input of the tower for each value of a pixel, per channel.

    A look-up in this table gives the reference's values bit for bit; the same arithmetic on a
    device does not. The array is shared and read-only.
    """
    values = (np.arange(256) * (1 / 255)).astype(np.float32)
    mean, std = (np.array(each, np.float32)[:, None] for each in (vision.mean, vision.std))
    levels = (values - mean) / std
    levels.setflags(write=False)
    return levels


def patchify(
    image_HW3: UInt8[np.ndarray, "H W 3"], vision: VisionSettings
) -> Float[np.ndarray, "N V"]:
    """Return the normalized patches of an image as the Hugging Face processor does.

    A still image fills every frame of the temporal patch. Training sends `cut_patches` to the
    device, which does the rest there (qwen2_5_vl/vision.py).
    """
    pixels_N3p = cut_patches(image_HW3, vision).reshape(-1, 3, vision.patch**2)
    values_N3p = normalized_levels(vision)[np.arange(3)[:, None], pixels_N3p]
    frames = np.repeat(values_N3p[:, :, None], vision.temporal_patch, axis=2)
    return frames.reshape(len(frames), -1)

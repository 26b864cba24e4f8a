"""Images and masks in the forms in which Python programs hold them.

Shape legend: H W pixels.
"""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

from segr1_jax.data.images import (
    open_image,
    open_mask,
    require_same_shape,
    rgb_pixels,
    white_pixels,
)
from segr1_jax.errors import UserError

Picture = Image.Image | np.ndarray | str | os.PathLike


def as_image(given: Picture) -> UInt8[np.ndarray, "H W 3"]:
    """Return an upright RGB image: of a file, of Pillow, or an array that is one already.

    Raises:
        UserError: the file cannot be read, or an array is not uint8 (H, W, 3).
    """
    if isinstance(given, Image.Image):
        return rgb_pixels(ImageOps.exif_transpose(given), "image")
    if isinstance(given, str | os.PathLike):
        return open_image(Path(given))
    image = np.asarray(given)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UserError(
            "image",
            expected="a path, an image of Pillow or an RGB array, uint8 (H, W, 3)",
            got=f"{type(given).__name__} {image.dtype} {image.shape}",
            remedy="convert it to one of them",
        )
    return image


def as_mask(given: Picture, height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """Return the truth of an image of `height` x `width` pixels, at its own size.

    An array is bool, or white on black as a file is.

    Raises:
        UserError: the file cannot be read, it has no object, or an array has another shape.
    """
    if isinstance(given, str | os.PathLike):
        return open_mask(Path(given), height, width)
    values = np.asarray(given.convert("L") if isinstance(given, Image.Image) else given)
    if values.ndim != 2 or values.dtype not in (np.bool_, np.uint8) or not values.any():
        raise UserError(
            "mask",
            expected="a path, an image of Pillow or an array (H, W), bool or uint8, with an object",
            got=f"{type(given).__name__} {values.dtype} {values.shape}",
            remedy="convert it to one of them",
        )
    require_same_shape(Path("mask"), values.shape[::-1], (width, height))
    return white_pixels(values)

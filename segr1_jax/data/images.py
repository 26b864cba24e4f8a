"""Opening of image and mask files. Every fault of a file is a UserError that names it.

Shape legend: H W the upright image in pixels, after EXIF orientation; TH TW its truth.
"""

from contextlib import AbstractContextManager
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from PIL import Image, ImageOps

from segr1_jax.common.picture_formats import opened
from segr1_jax.data.pictures import Cell, Picture
from segr1_jax.errors import UserError

_SWAPPED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_ORIENTATION = 0x0112
# Largest ratio of the aspect ratios of a truth and its image. Those of a picture of 4:3 and of the
# same picture on its side differ by a factor of 1.78.
MOST_STRETCH = 1.25
# The brightest gray (of 255) of a truth that is background, as in pysodmetrics.
BACKGROUND = 128


def open_image(path: Picture, content: BufferedIOBase | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """Read an upright RGB image. Gray, palette and 16-bit images are converted.

    Transparent pixels are composited over white. For a picture inside another file, `content` is
    its content and `path` is only used in errors. 8-bit images equal those of transformers'
    `convert_to_rgb`, which its processors pass to a model.
    """
    return rgb_pixels(_open(path, "image", content), str(path))


def rgb_pixels(image: Image.Image, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """Convert an upright image of Pillow as open_image does; errors name it `name`."""
    # Of 16 bits the high byte is kept.
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UserError(
            name,
            expected="an image with 8 or 16 bits per channel",
            got=f"mode {image.mode}",
            remedy="convert it to 8-bit RGB",
        )
    if _has_transparency(image):
        image = _composited("white", image)
    return np.asarray(image.convert("RGB"))


def open_mask(path: Picture, height: int, width: int) -> Bool[np.ndarray, "TH TW"]:
    """Read the upright mask of an image of `height` x `width` pixels, at the mask's own size.

    The mask is True where its gray value is above 128 of 255, the threshold of pysodmetrics (of 16
    bits the high byte counts). Transparent pixels are composited over black. 1-bit masks, and masks
    with no value above 1, are True where the value is not 0. Raises UserError if no pixel is
    True: such a sample has no object, often because the mask holds class numbers.
    """
    mask = _open(path, "mask")
    require_same_shape(path, mask.size, (width, height))
    if _has_transparency(mask) and not mask.mode.startswith("I"):
        mask = _composited("black", mask)
    if mask.mode.startswith("I"):
        values_HW = np.asarray(mask)
        background, full = BACKGROUND << 8 | 0xFF, 65535
    else:
        values_HW = np.asarray(mask if mask.mode == "1" else mask.convert("L"))
        background, full = BACKGROUND, 255
    mask_HW = white_pixels(values_HW, background)
    if not mask_HW.any():
        brightest = values_HW.max(initial=0)
        raise UserError(
            str(path),
            expected="a mask, white on black",
            got=f"no pixel brighter than {background} of {full} (the brightest: {brightest})",
            remedy="write the object as white, or leave the sample out",
        )
    return mask_HW


def white_pixels(
    values_HW: Shaped[np.ndarray, "TH TW"], background: int = BACKGROUND
) -> Bool[np.ndarray, "TH TW"]:
    """Return the pixels brighter than `background`; of a mask of 0 and 1, those that are 1."""
    return values_HW > (0 if values_HW.max(initial=0) <= 1 else background)


def upright_size(path: Picture, kind: str) -> tuple[int, int]:
    """Return (width, height) of the upright picture, reading only the header of the file."""
    with _opened(path, kind) as image:
        width, height = image.size
        # Pillow's method for PNG decodes the whole picture to look for a note behind its pixels.
        orientation = Image.Image.getexif(image).get(_ORIENTATION)
        # Pillow gives the size of a TIFF upright already.
        swapped = orientation in _SWAPPED and image.format != "TIFF"
    return (height, width) if swapped else (width, height)


def require_same_shape(mask: Picture, size: tuple[int, int], image_size: tuple[int, int]) -> None:
    """Raise UserError unless a mask of `size` has about the aspect ratio of its image.

    Both sizes are (width, height). Otherwise the mask belongs to another image or is rotated.
    """
    stretch = size[0] * image_size[1] / (size[1] * image_size[0])
    if max(stretch, 1 / stretch) > MOST_STRETCH:
        expected = f"a mask of about its image's shape, {image_size[0]}x{image_size[1]}"
        raise UserError(
            str(mask),
            expected=expected,
            got=f"{size[0]}x{size[1]}",
            remedy="rotate the mask or fix the pair",
        )


def _has_transparency(image: Image.Image) -> bool:
    return "A" in image.getbands() or image.info.get("transparency") is not None


def _composited(ground: str, image: Image.Image) -> Image.Image:
    """Return the image over a background of color `ground`."""
    return Image.alpha_composite(Image.new("RGBA", image.size, ground), image.convert("RGBA"))


def _opened(
    picture: Picture, kind: str, content: BufferedIOBase | None = None
) -> AbstractContextManager[Image.Image]:
    if isinstance(picture, Cell):
        return opened(Path(str(picture)), kind, picture.open())
    return opened(picture, kind, content)


def _open(path: Picture, kind: str, content: BufferedIOBase | None = None) -> Image.Image:
    with _opened(path, kind, content) as image:
        return ImageOps.exif_transpose(image)

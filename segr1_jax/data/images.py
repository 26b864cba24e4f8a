"""Open image and mask files; everything that can be wrong with one is a UserError that names it.

Shape legend: H W the upright image in pixels, after EXIF orientation; TH TW its truth.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

from segr1_jax.common.picture_formats import opened
from segr1_jax.errors import UserError

_SWAPPED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_ORIENTATION = 0x0112
MOST_STRETCH = 1.25  # of a truth against its image; a picture of 4:3 on its side is off by 1.78
BACKGROUND = 128  # of 255: the brightest grey of a truth that is not its object (pysodmetrics)


def open_image(path: Path, content: bytes | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """The upright RGB image. Grey, palette and 16-bit images are converted; what is transparent is laid on white.

    A picture that lies inside another file comes as `content`; `path` then only says where, in errors.

    8-bit images come out as transformers' `convert_to_rgb` makes them, which is what its processors show a model.
    """
    image = _open(path, "image", content)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UserError(
            str(path),
            expected="an image of 8 or 16 bits per channel",
            got=f"mode {image.mode}",
            remedy="convert it to 8-bit RGB",
        )
    if _has_transparency(image):
        image = _laid_on("white", image)
    return np.asarray(image.convert("RGB"))


def open_mask(path: Path, height: int, width: int) -> Bool[np.ndarray, "TH TW"]:
    """The upright mask of an image of `height` x `width` pixels, at its own size, which may differ from the image's.

    True where its grey value is above 128 of 255, as pysodmetrics cuts a truth (of 16 bits the high byte counts); what is transparent
    lies on black; 1-bit masks and masks of only 0 and 1 are true where not 0. Raises UserError where nothing is true: such a sample
    teaches nothing, and often means that the mask holds class numbers.
    """
    mask = _open(path, "mask")
    require_same_shape(path, mask.size, (width, height))
    if _has_transparency(mask) and not mask.mode.startswith("I"):
        mask = _laid_on("black", mask)
    if mask.mode.startswith("I"):
        values_HW, background, full = np.asarray(mask), BACKGROUND << 8 | 0xFF, 65535
    else:
        grey = mask if mask.mode == "1" else mask.convert("L")
        values_HW, background, full = np.asarray(grey), BACKGROUND, 255
    mask_HW = values_HW > (0 if values_HW.max(initial=0) <= 1 else background)
    if not mask_HW.any():
        got = f"no pixel brighter than {background} of {full} (the brightest: {values_HW.max(initial=0)})"
        raise UserError(
            str(path),
            expected="a mask, white on black",
            got=got,
            remedy="write the object as white, or leave the sample out",
        )
    return mask_HW


def upright_size(path: Path, kind: str) -> tuple[int, int]:
    """(width, height) of the upright picture, from the file's header alone."""
    with opened(path, kind) as image:
        width, height = image.size
        swapped = image.getexif().get(_ORIENTATION) in _SWAPPED
    return (height, width) if swapped else (width, height)


def require_same_shape(mask: Path, size: tuple[int, int], image_size: tuple[int, int]) -> None:
    """Raise UserError where a mask of (width, height) has not about the aspect ratio of its image: it belongs to another, or lies on
    its side.
    """
    stretch = size[0] * image_size[1] / (size[1] * image_size[0])
    if max(stretch, 1 / stretch) > MOST_STRETCH:
        expected = f"a mask of about its image's shape, {image_size[0]}x{image_size[1]}"
        raise UserError(
            str(mask),
            expected=expected,
            got=f"{size[0]}x{size[1]}",
            remedy="turn the mask or fix the pair",
        )


def _has_transparency(image: Image.Image) -> bool:
    return "A" in image.getbands() or image.info.get("transparency") is not None


def _laid_on(ground: str, image: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, ground), image.convert("RGBA"))


def _open(path: Path, kind: str, content: bytes | None = None) -> Image.Image:
    with opened(path, kind, content) as image:
        return ImageOps.exif_transpose(image)

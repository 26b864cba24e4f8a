"""Pictures for people: a mask with its prompts, and a prediction beside the truth.

Shape legend: H W native image in pixels; h w reduced image; across: width of three pictures and
the gaps between them.
"""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from segr1_jax.types import SamPrompt

MASK_COLOR = (30, 144, 255)
MASK_OPACITY = 0.5
EDGE_COLOR = (255, 255, 255)
BOX_COLOR = (255, 215, 0)
# 1: a point on the object, 0: a point on the background.
POINT_COLORS = {1: (50, 220, 80), 0: (235, 60, 50)}
# Hits, misses and false alarms differ in hue and lightness for every kind of color vision (after
# Okabe and Ito), and false alarms are hatched as well.
HIT_COLOR, MISS_COLOR, FALSE_COLOR = (0, 114, 178), (240, 228, 66), (213, 94, 0)
COMPARED_OPACITY = 0.75
HATCH = 6  # pixels between the lines of false alarms
GAP = 4  # white pixels between two pictures
JPEG_QUALITY = 90


def overlay(
    image_HW3: UInt8[np.ndarray, "H W 3"],
    mask_HW: Bool[np.ndarray, "H W"] | None = None,
    prompts: Sequence[SamPrompt] = (),
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw the mask, the boxes and the points over the image.

    The mask is tinted and outlined; points are green dots on the object and red squares on the
    background.
    Prompts are in pixels of this image, as `answer.grammar.sam_prompts` returns them.
    """
    canvas_HW3 = image_HW3.astype(np.float32)
    if mask_HW is not None:
        _tint(canvas_HW3, mask_HW, MASK_COLOR, MASK_OPACITY)
        # The outline shows the mask on objects that have the color of the tint.
        canvas_HW3[_edge(mask_HW, _stroke(canvas_HW3))] = EDGE_COLOR
    return _with_prompts(canvas_HW3, prompts)


def comparison(
    image_HW3: UInt8[np.ndarray, "H W 3"],
    mask_HW: Bool[np.ndarray, "H W"],
    truth_HW: Bool[np.ndarray, "H W"],
    prompts: Sequence[SamPrompt] = (),
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw where a mask and the truth agree and differ, with the boxes and points of the answer.

    Hits (in both) are blue, misses (in the truth alone) yellow, and false alarms (in the mask
    alone) are hatched in vermilion. The truth is outlined. The image is gray: its own colors would
    shift those of the masks.
    """
    gray_HW1 = image_HW3.astype(np.float32).mean(axis=-1, keepdims=True)
    canvas_HW3 = np.repeat(gray_HW1, 3, axis=-1)
    false_HW = mask_HW & ~truth_HW
    _tint(canvas_HW3, mask_HW & truth_HW, HIT_COLOR, COMPARED_OPACITY)
    _tint(canvas_HW3, truth_HW & ~mask_HW, MISS_COLOR, COMPARED_OPACITY)
    _tint(canvas_HW3, false_HW, FALSE_COLOR, COMPARED_OPACITY)
    diagonal_HW = np.add.outer(*map(np.arange, mask_HW.shape)) % HATCH < HATCH // 3
    canvas_HW3[false_HW & diagonal_HW] = EDGE_COLOR
    canvas_HW3[_edge(truth_HW, _stroke(canvas_HW3))] = EDGE_COLOR
    return _with_prompts(canvas_HW3, prompts)


def _stroke(canvas_HW3: Float[np.ndarray, "H W 3"]) -> int:
    return max(1, min(canvas_HW3.shape[:2]) // 150)


def _tint(
    canvas_HW3: Float[np.ndarray, "H W 3"],
    mask_HW: Bool[np.ndarray, "H W"],
    color: tuple[int, int, int],
    opacity: float,
) -> None:
    tint = opacity * np.array(color, np.float32)
    canvas_HW3[mask_HW] = (1 - opacity) * canvas_HW3[mask_HW] + tint


def _with_prompts(
    canvas_HW3: Float[np.ndarray, "H W 3"], prompts: Sequence[SamPrompt]
) -> UInt8[np.ndarray, "H W 3"]:
    stroke = _stroke(canvas_HW3)
    picture = Image.fromarray(np.rint(canvas_HW3).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for prompt in prompts:
        if prompt.box is not None:
            draw.rectangle([float(v) for v in prompt.box], outline=BOX_COLOR, width=stroke)
    for prompt in prompts:
        for (x, y), label in zip(prompt.points.tolist(), prompt.labels.tolist(), strict=True):
            # The shapes tell the points apart without their colors.
            mark = draw.ellipse if label else draw.rectangle
            around = (x - 2 * stroke, y - 2 * stroke, x + 2 * stroke, y + 2 * stroke)
            mark(around, fill=POINT_COLORS[label], outline=(255, 255, 255))
    return np.asarray(picture)


def _edge(mask_HW: Bool[np.ndarray, "H W"], width: int) -> Bool[np.ndarray, "H W"]:
    """Return the pixels of the mask within `width` of its outside, along rows and columns.

    A mask that touches the border of the image has no outline there.
    """
    height, breadth = mask_HW.shape
    padded = np.pad(mask_HW, width, mode="edge")
    inside_HW = mask_HW.copy()
    for y, x in ((0, width), (2 * width, width), (width, 0), (width, 2 * width)):
        inside_HW &= padded[y : y + height, x : x + breadth]
    return mask_HW & ~inside_HW


def reduced(
    image_HW3: UInt8[np.ndarray, "H W 3"],
    mask_HW: Bool[np.ndarray, "H W"] | None,
    prompts: Sequence[SamPrompt],
    side: int,
) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"] | None, list[SamPrompt]]:
    """Scale image, mask and prompts down to at most `side` pixels, for `overlay`.

    A smaller image is returned unchanged.
    """
    height, width = image_HW3.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image_HW3, mask_HW, list(prompts)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = np.asarray(Image.fromarray(image_HW3).resize(size, Image.Resampling.BILINEAR))
    if mask_HW is not None:
        mask_HW = np.asarray(Image.fromarray(mask_HW).resize(size, Image.Resampling.NEAREST))
    ratio = np.array([size[0] / width, size[1] / height], np.float32)
    moved = [
        SamPrompt(
            box=None if prompt.box is None else prompt.box * np.tile(ratio, 2),
            points=prompt.points * ratio,
            labels=prompt.labels,
        )
        for prompt in prompts
    ]
    return image, mask_HW, moved


def panel(
    image_HW3: UInt8[np.ndarray, "H W 3"],
    prediction_HW: Bool[np.ndarray, "H W"] | None,
    truth_HW: Bool[np.ndarray, "H W"] | None,
    prompts: Sequence[SamPrompt] = (),
) -> UInt8[np.ndarray, "H across 3"]:
    """Draw side by side: image | prediction with its prompts | truth.

    A missing mask leaves its picture untinted.
    """
    pictures = (image_HW3, overlay(image_HW3, prediction_HW, prompts), overlay(image_HW3, truth_HW))
    gap = np.full((len(image_HW3), GAP, 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (gap, picture)][1:], axis=1)


def jpeg(pixels: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """Return the content of a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def png(pixels: UInt8[np.ndarray, "H W *C"]) -> bytes:
    """Return the content of a PNG file: gray (H, W) or RGB (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()

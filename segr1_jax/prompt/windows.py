"""The padded window layout of the vision tower, so that window attention is a reshape on the device.

Shape legend: W windows, S slots (patches) per window, U merged units (image tokens) in raster order, C values per patch.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from segr1_jax.prompt.patches import patchify
from segr1_jax.prompt.processor_settings import VisionSettings


@dataclasses.dataclass(frozen=True)
class WindowLayout:
    """Where the patches of one image go. Windows at the right and bottom edge may be partly empty.

    `patch_index`: row of the patch in processor order (patches of a merged unit consecutive), -1 in an empty slot.
    `positions`: (row, column) of the patch in the grid, 0 in an empty slot. `mask`: the slot holds a patch.
    `unit_row`: for each merged unit, its row in the merged output [W * S / merge^2] of the padded windows.
    """

    patch_index: Int[np.ndarray, "W S"]
    positions: Int[np.ndarray, "W S 2"]
    mask: Bool[np.ndarray, "W S"]
    unit_row: Int[np.ndarray, " U"]


@dataclasses.dataclass(frozen=True)
class ImageWindows:
    """The images of one prompt, one after another in window order; the fields are Prompt's.

    `unit_row`: for each merged unit (image token), its row in the merged output of all windows.
    """

    patches: Float[np.ndarray, "W S C"]
    patch_positions: Int[np.ndarray, "W S 2"]
    patch_mask: Bool[np.ndarray, "W S"]
    window_image: Int[np.ndarray, " W"]
    unit_row: Int[np.ndarray, " U"]


def join_windows(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]], vision: VisionSettings
) -> ImageWindows:
    """Window the `images` of one prompt, each already at its size in the model; none give W = U = 0."""
    slots, values = (
        (vision.window // vision.patch) ** 2,
        3 * vision.temporal_patch * vision.patch**2,
    )
    parts = [_no_windows(slots, values)]
    for index, image in enumerate(images):
        layout = window_layout(*image.shape[:2], vision)
        patches_NC = patchify(image, vision)
        patches_WSC = np.where(
            layout.mask[..., None], patches_NC[layout.patch_index], np.float32(0)
        )
        rows_before = sum(part.patch_mask.size for part in parts) // vision.merge**2
        window_image_W = np.full(len(layout.mask), index, np.int32)
        parts.append(
            ImageWindows(
                patches_WSC,
                layout.positions,
                layout.mask,
                window_image_W,
                layout.unit_row + np.int32(rows_before),
            )
        )
    return ImageWindows(
        *(
            np.concatenate([getattr(part, f.name) for part in parts])
            for f in dataclasses.fields(ImageWindows)
        )
    )


def _no_windows(slots: int, values: int) -> ImageWindows:
    patches, positions = np.zeros((0, slots, values), np.float32), np.zeros((0, slots, 2), np.int32)
    return ImageWindows(
        patches, positions, np.zeros((0, slots), bool), np.zeros(0, np.int32), np.zeros(0, np.int32)
    )


def window_layout(height: int, width: int, vision: VisionSettings) -> WindowLayout:
    """The layout of an image of `height` x `width` pixels (multiples of one merged unit). Cached, arrays read-only.

    The order of the filled slots is that of Hugging Face's `get_vision_window_index`; each window is padded to full size.
    """
    return _layout(
        height // vision.unit, width // vision.unit, vision.merge, vision.window // vision.unit
    )


@functools.lru_cache(maxsize=64)
def _layout(rows: int, columns: int, merge: int, side: int) -> WindowLayout:
    """`rows` x `columns` merged units cut into windows of `side` x `side` units."""
    down, across = -(-rows // side), -(-columns // side)
    units = np.full((down * side, across * side), -1, np.int32)
    units[:rows, :columns] = np.arange(rows * columns).reshape(rows, columns)
    units_WV = (
        units.reshape(down, side, across, side)
        .transpose(0, 2, 1, 3)
        .reshape(down * across, side * side)
    )

    cell = merge * merge
    mask = np.repeat(units_WV >= 0, cell, axis=1)
    within = np.tile(np.arange(cell, dtype=np.int32), side * side)
    patch_index = np.where(mask, np.repeat(units_WV, cell, axis=1) * cell + within, -1)
    unit = np.maximum(patch_index, 0) // cell
    positions = np.stack(
        [unit // columns * merge + within // merge, unit % columns * merge + within % merge],
        axis=-1,
    )
    unit_row = np.argsort(
        np.where(units_WV < 0, rows * columns, units_WV).reshape(-1), kind="stable"
    )[: rows * columns]

    arrays = (patch_index, np.where(mask[..., None], positions, 0), mask, unit_row)
    layout = WindowLayout(
        *(array if array.dtype == bool else array.astype(np.int32) for array in arrays)
    )
    for array in vars(layout).values():  # shared by every prompt of this size
        array.setflags(write=False)
    return layout

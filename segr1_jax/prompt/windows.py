"""Padded window layout of the vision tower, which makes window attention a reshape on the device.

Shape legend: W windows; S slots (patches) per window; U merged units (image tokens) in raster
order; V units per window; N patches; C pixel values per patch.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, UInt8

from segr1_jax.prompt.patches import cut_patches
from segr1_jax.prompt.processor_settings import VisionSettings


@dataclasses.dataclass(frozen=True)
class WindowLayout:
    """Slots of the patches of one image. Windows at the right and bottom edge may be partly empty.

    Attributes:
        patch_index: row of the patch in processor order (patches of a merged unit consecutive),
            -1 in an empty slot.
        positions: (row, column) of the patch in the grid, 0 in an empty slot.
        mask: the slot holds a patch.
        unit_row: row of each merged unit in the merged output [W * S / merge^2] of the padded
            windows.
    """

    patch_index: Int[np.ndarray, "W S"]
    positions: Int[np.ndarray, "W S 2"]
    mask: Bool[np.ndarray, "W S"]
    unit_row: Int[np.ndarray, " U"]


@dataclasses.dataclass(frozen=True)
class ImageWindows:
    """Images of one prompt, one after another in window order; the fields are those of Prompt.

    `unit_row` is the row of each merged unit (image token) in the merged output of all windows.
    """

    patches: UInt8[np.ndarray, "W S C"]
    patch_positions: Int[np.ndarray, "W S 2"]
    patch_mask: Bool[np.ndarray, "W S"]
    window_image: Int[np.ndarray, " W"]
    unit_row: Int[np.ndarray, " U"]


def join_windows(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]], vision: VisionSettings
) -> ImageWindows:
    """Lay out the `images` of one prompt, each already in its model frame, in windows.

    Without images W = U = 0.
    """
    slots = (vision.window // vision.patch) ** 2
    values = 3 * vision.patch**2
    parts = [_no_windows(slots, values)]
    for index, image in enumerate(images):
        layout = window_layout(*image.shape[:2], vision)
        patches_NC = cut_patches(image, vision)
        patches_WSC = np.where(layout.mask[..., None], patches_NC[layout.patch_index], np.uint8(0))
        # The merged output has one row per merge^2 slots, empty slots included.
        rows_before = sum(part.patch_mask.size for part in parts) // vision.merge**2
        parts.append(
            ImageWindows(
                patches=patches_WSC,
                patch_positions=layout.positions,
                patch_mask=layout.mask,
                window_image=np.full(len(layout.mask), index, np.int32),
                unit_row=layout.unit_row + np.int32(rows_before),
            )
        )
    joined = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(ImageWindows)
    }
    return ImageWindows(**joined)


def _no_windows(slots: int, values: int) -> ImageWindows:
    return ImageWindows(
        patches=np.zeros((0, slots, values), np.uint8),
        patch_positions=np.zeros((0, slots, 2), np.int32),
        patch_mask=np.zeros((0, slots), bool),
        window_image=np.zeros(0, np.int32),
        unit_row=np.zeros(0, np.int32),
    )


def window_layout(height: int, width: int, vision: VisionSettings) -> WindowLayout:
    """Return the layout of an image of `height` x `width` pixels (multiples of a merged unit).

    The order of the filled slots is that of Hugging Face's `get_vision_window_index`; each window
    is padded to full size. Layouts are cached and their arrays are read-only.
    """
    return _layout(
        height // vision.unit, width // vision.unit, vision.merge, vision.window // vision.unit
    )


@functools.lru_cache(maxsize=64)
def _layout(rows: int, columns: int, merge: int, side: int) -> WindowLayout:
    """Cut `rows` x `columns` merged units into windows of `side` x `side` units."""
    # Windows down and across the image, rounded up: -1 fills the units beyond its edges.
    down = -(-rows // side)
    across = -(-columns // side)
    units = np.full((down * side, across * side), -1, np.int32)
    units[:rows, :columns] = np.arange(rows * columns).reshape(rows, columns)
    units_WV = (
        units.reshape(down, side, across, side)
        .transpose(0, 2, 1, 3)
        .reshape(down * across, side * side)
    )

    # Every unit becomes `cell` slots; `within` is the number of a slot's patch in its unit.
    cell = merge * merge
    mask = np.repeat(units_WV >= 0, cell, axis=1)
    within = np.tile(np.arange(cell, dtype=np.int32), side * side)
    patch_index = np.where(mask, np.repeat(units_WV, cell, axis=1) * cell + within, -1)
    unit = np.maximum(patch_index, 0) // cell
    positions = np.stack(
        [unit // columns * merge + within // merge, unit % columns * merge + within % merge],
        axis=-1,
    )
    # The inverse of units_WV: empty units sort behind all others and are cut off.
    order = np.argsort(np.where(units_WV < 0, rows * columns, units_WV).reshape(-1), kind="stable")
    layout = WindowLayout(
        patch_index=patch_index.astype(np.int32),
        positions=np.where(mask[..., None], positions, 0).astype(np.int32),
        mask=mask,
        unit_row=order[: rows * columns].astype(np.int32),
    )
    # Every prompt of this size shares the arrays.
    for array in vars(layout).values():
        array.setflags(write=False)
    return layout

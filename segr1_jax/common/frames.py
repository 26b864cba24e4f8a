"""Conversion of coordinates between pixel frames. No other module changes the frame of coordinates.

The policy answers in pixels of its own resized frame; SAM2 and the masks use native pixels. A
stretch maps x by native.width / model.width, without half-pixel offsets: coordinate 0 is the left
edge and `width` is the right edge.

Shape legend: K points.
"""

import numpy as np
from jaxtyping import Float, Real

from segr1_jax.types import Frame


def convert_points(
    points_K2: Real[np.ndarray, "K 2"], source: Frame, target: Frame
) -> Float[np.ndarray, "K 2"]:
    """Map (x, y) rows from `source` pixels to `target` pixels (float32)."""
    scale = np.array([target.width / source.width, target.height / source.height], np.float64)
    return (np.asarray(points_K2, np.float64).reshape(-1, 2) * scale).astype(np.float32)


def convert_box(
    box: Real[np.ndarray, " 4"], source: Frame, target: Frame
) -> Float[np.ndarray, " 4"]:
    """Map one (x1, y1, x2, y2) box from `source` pixels to `target` pixels (float32)."""
    return convert_points(np.asarray(box).reshape(2, 2), source, target).reshape(4)

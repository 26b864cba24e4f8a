"""Stored forms of true masks: a picture, polygons, or a COCO annotation.

A mask that is a picture keeps its own size; the others have the size of the image.

Shape legend: H W the upright image in pixels; TH TW the truth; K corners.
"""

import dataclasses
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw

from segr1_jax.common.optional_packages import optional_package
from segr1_jax.data.images import open_mask, require_same_shape, upright_size
from segr1_jax.data.pictures import Picture
from segr1_jax.errors import UserError

# Largest coordinate in pixels. The memory that pycocotools takes grows with the length of a
# polygon, and it ends the process where there is no more.
FAR = 100_000.0


class Masks(NamedTuple):
    """Mask of the object, and mask of the pixels that metrics ignore (None: no such pixels)."""

    object: Bool[np.ndarray, "TH TW"]
    ignore: Bool[np.ndarray, "TH TW"] | None = None


@runtime_checkable
class Truth(Protocol):
    """Stored mask of an image of a given size. Both methods raise UserError for a bad mask."""

    def check(self, width: int, height: int) -> None:
        """Check everything that needs no decoding of pixels."""

    def read(self, height: int, width: int) -> Masks:
        """Decode the masks."""


@dataclasses.dataclass(frozen=True)
class MaskFile:
    """Mask stored as a picture, white on black."""

    path: Picture

    def check(self, width: int, height: int) -> None:
        require_same_shape(self.path, upright_size(self.path, "mask"), (width, height))

    def read(self, height: int, width: int) -> Masks:
        return Masks(open_mask(self.path, height, width))


class Polygon(NamedTuple):
    """Polygon with corners (x, y) in pixels; `counts` is False for a region that metrics ignore."""

    corners: Sequence[tuple[float, float]]
    counts: bool = True


@dataclasses.dataclass(frozen=True)
class Polygons:
    """Filled polygons, drawn from the largest to the smallest as LISA does.

    Of polygons of equal area the last of the file is drawn first. `where` names the file in errors.
    """

    where: str
    polygons: tuple[Polygon, ...]

    def check(self, width: int, height: int) -> None:
        if not any(polygon.counts for polygon in self.polygons):
            raise UserError(
                self.where,
                expected="a polygon of the target",
                got="none",
                remedy="annotate it, or leave the sample out",
            )

    def read(self, height: int, width: int) -> Masks:
        self.check(width, height)
        regions = [
            (_filled(polygon.corners, height, width), polygon.counts) for polygon in self.polygons
        ]
        object_HW, ignore_HW = np.zeros((2, height, width), bool)
        # [::-1] and not reverse=True, which would keep equal areas in the order of the file.
        for region_HW, counts in sorted(regions, key=lambda item: int(item[0].sum()))[::-1]:
            object_HW[region_HW] = counts
            ignore_HW[region_HW] = not counts
        return Masks(_not_empty(object_HW, self.where), ignore_HW if ignore_HW.any() else None)


@dataclasses.dataclass(frozen=True)
class CocoSegmentation:
    """COCO `segmentation` of an image of `height` x `width` pixels.

    It is the union of polygons, or a run-length code, compressed or not. `where` names the
    annotation in errors.
    """

    where: str
    segmentation: Any
    height: int
    width: int

    def check(self, width: int, height: int) -> None:
        if (self.width, self.height) != (width, height):
            raise UserError(
                self.where,
                expected=f"an annotation of its image of {width}x{height} pixels",
                got=f"an annotation of {self.width}x{self.height} pixels",
                remedy="copy the image again, or leave the sample out",
            )
        if not self.segmentation:
            raise UserError(
                self.where,
                expected="a segmentation",
                got="an empty one",
                remedy="annotate it, or leave the sample out",
            )

    def read(self, height: int, width: int) -> Masks:
        self.check(width, height)
        coco = optional_package("pycocotools.mask", "eval")
        try:
            mask_HW = self._decode(coco, height, width)
        # pycocotools raises a bare Exception for some malformed codes.
        except Exception as error:
            raise UserError(
                self.where,
                expected="polygons or a run-length code of COCO",
                got=f"{type(error).__name__}: {error}",
                remedy="fix the annotation",
            ) from error
        return Masks(_not_empty(mask_HW, self.where))

    def _decode(self, coco: ModuleType, height: int, width: int) -> Bool[np.ndarray, "H W"]:
        if isinstance(self.segmentation, list):
            for polygon in self.segmentation:
                require_corners(np.reshape(polygon, (-1, 2)))
            codes = coco.merge(coco.frPyObjects(self.segmentation, height, width))
        else:
            # Check the size first, because pycocotools allocates an array of this size.
            codes = self.segmentation
            if list(codes["size"]) != [height, width]:
                raise ValueError(f"run lengths for {codes['size']}")
            if isinstance(codes["counts"], list):
                codes = coco.frPyObjects(codes, height, width)
            # pycocotools rejects runs that are too long, but leaves the pixels after runs that are
            # too short unset. Runs of the right length do not fit one pixel less.
            if height * width > 1 and _fits(coco, codes, height * width - 1):
                raise ValueError("run lengths that end before the last pixel")
        return coco.decode(codes).astype(bool)


@dataclasses.dataclass(frozen=True)
class Unusable:
    """Truth with a bad annotation, found when the set was opened and reported on access."""

    error: UserError

    def check(self, width: int, height: int) -> None:
        raise self.error

    def read(self, height: int, width: int) -> Masks:
        raise self.error


def require_corners(corners: Any) -> Float[np.ndarray, "K 2"]:
    """Return corners (x, y) in pixels as an array.

    Raises ValueError or TypeError unless there is at least one and all are finite and within FAR.
    """
    corners_K2 = np.asarray(corners, np.float64)
    if (
        corners_K2.ndim != 2
        or corners_K2.shape[1] != 2
        or not len(corners_K2)
        or not (np.abs(corners_K2) <= FAR).all()
    ):
        raise ValueError(f"a polygon that is not pairs of numbers up to {FAR:.0f}")
    return corners_K2


def _fits(coco: ModuleType, codes: Any, pixels: int) -> bool:
    """Return whether the runs end within `pixels`."""
    try:
        coco.decode({"size": [pixels, 1], "counts": codes["counts"]})
    except ValueError:
        return False
    return True


def _filled(
    corners: Sequence[tuple[float, float]], height: int, width: int
) -> Bool[np.ndarray, "H W"]:
    """Return the mask of a polygon: inside and outline, corners truncated to whole pixels.

    LISA draws ReasonSeg this way; some pixels of slanted outlines differ.
    """
    canvas = Image.new("1", (width, height))
    pixels = [(int(x), int(y)) for x, y in corners]
    # Pillow does not draw a polygon of one corner.
    pixels *= 2 if len(pixels) == 1 else 1
    ImageDraw.Draw(canvas).polygon(pixels, fill=1, outline=1)
    return np.asarray(canvas)


def _not_empty(mask_HW: Bool[np.ndarray, "H W"], where: str) -> Bool[np.ndarray, "H W"]:
    if not mask_HW.any():
        raise UserError(
            where,
            expected="a mask with an object",
            got="no pixel inside the image",
            remedy="fix the annotation, or leave the sample out",
        )
    return mask_HW

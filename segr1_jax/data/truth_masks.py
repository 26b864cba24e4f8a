"""What a sample's true mask is made of: a picture, polygons, or a COCO annotation. A picture keeps its own size, whatever the image's.

Shape legend: H W the upright image in pixels; TH TW the truth.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw

from segr1_jax.common.optional_packages import optional_package
from segr1_jax.data.images import open_mask, require_same_shape, upright_size
from segr1_jax.errors import UserError

FAR = 100_000.0  # pixels; pycocotools' memory grows with a polygon's length, and ends the process where there is no more


class Masks(NamedTuple):
    """The object, and the pixels that no metric counts (None: all count)."""

    object: Bool[np.ndarray, "TH TW"]
    ignore: Bool[np.ndarray, "TH TW"] | None = None


@runtime_checkable
class Truth(Protocol):
    """A mask on disk, of an image of this size. Both methods raise UserError where it cannot be had."""

    def check(self, width: int, height: int) -> None:
        """What can be seen without decoding pixels."""

    def read(self, height: int, width: int) -> Masks: ...


@dataclasses.dataclass(frozen=True)
class MaskFile:
    """A picture, white on black."""

    path: Path

    def check(self, width: int, height: int) -> None:
        require_same_shape(self.path, upright_size(self.path, "mask"), (width, height))

    def read(self, height: int, width: int) -> Masks:
        return Masks(open_mask(self.path, height, width))


class Polygon(NamedTuple):
    """Corners (x, y) in pixels; `counts` is False for a region that no metric counts."""

    corners: Sequence[tuple[float, float]]
    counts: bool = True


@dataclasses.dataclass(frozen=True)
class Polygons:
    """Filled polygons, drawn from the largest to the smallest, of equal ones the last first (as LISA does); `where` names their file."""

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
        drawn = [
            (_filled(polygon.corners, height, width), polygon.counts) for polygon in self.polygons
        ]
        object_HW, ignore_HW = np.zeros((2, height, width), bool)
        # Not reverse=True, which keeps equal ones in the order of the file.
        for region_HW, counts in sorted(drawn, key=lambda item: int(item[0].sum()))[::-1]:
            object_HW[region_HW], ignore_HW[region_HW] = counts, not counts
        return Masks(_not_empty(object_HW, self.where), ignore_HW if ignore_HW.any() else None)


@dataclasses.dataclass(frozen=True)
class CocoSegmentation:
    """A COCO `segmentation`: polygons that are joined, or a run-length code, compressed or not; of an image of `height` x `width`."""

    where: str
    segmentation: Any
    height: int
    width: int

    def check(self, width: int, height: int) -> None:
        if (self.width, self.height) != (width, height):
            raise UserError(
                self.where,
                expected=f"an annotation of its image, of {width}x{height} pixels",
                got=f"one of {self.width}x{self.height}",
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
        except Exception as error:  # pycocotools raises bare Exception for some malformed codes
            got = f"{type(error).__name__}: {error}"
            raise UserError(
                self.where,
                expected="polygons or a run-length code as COCO has them",
                got=got,
                remedy="mend it",
            ) from error
        return Masks(_not_empty(mask_HW, self.where))

    def _decode(self, coco: ModuleType, height: int, width: int) -> Bool[np.ndarray, "H W"]:
        if isinstance(self.segmentation, list):
            for polygon in self.segmentation:
                require_corners(np.reshape(polygon, (-1, 2)))
            codes = coco.merge(coco.frPyObjects(self.segmentation, height, width))
        else:
            codes = self.segmentation
            if list(codes["size"]) != [height, width]:  # before any memory is taken for it
                raise ValueError(f"run lengths for {codes['size']}")
            if isinstance(codes["counts"], list):
                codes = coco.frPyObjects(codes, height, width)
            if height * width > 1 and _fits(coco, codes, height * width - 1):
                raise ValueError("run lengths that end before the last pixel")
        return coco.decode(codes).astype(bool)


@dataclasses.dataclass(frozen=True)
class Unusable:
    """A truth whose annotation is at fault: found when the set was opened, reported when its turn comes."""

    error: UserError

    def check(self, width: int, height: int) -> None:
        raise self.error

    def read(self, height: int, width: int) -> Masks:
        raise self.error


def require_corners(corners: Any) -> Float[np.ndarray, "K 2"]:
    """Corners (x, y) in pixels as numbers. Raises ValueError or TypeError unless there are some, finite and within FAR."""
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
    """Whether the runs end within `pixels`: pycocotools refuses longer ones, but leaves what shorter ones do not reach unset."""
    try:
        coco.decode({"size": [pixels, 1], "counts": codes["counts"]})
    except ValueError:
        return False
    return True


def _filled(
    corners: Sequence[tuple[float, float]], height: int, width: int
) -> Bool[np.ndarray, "H W"]:
    """Inside and outline, corners cut to whole pixels, as LISA draws ReasonSeg (but for some pixels of slanted outlines)."""
    canvas = Image.new("1", (width, height))
    pixels = [(int(x), int(y)) for x, y in corners]
    pixels *= 2 if len(pixels) == 1 else 1  # Pillow draws no polygon of one corner
    ImageDraw.Draw(canvas).polygon(pixels, fill=1, outline=1)
    return np.asarray(canvas)


def _not_empty(mask_HW: Bool[np.ndarray, "H W"], where: str) -> Bool[np.ndarray, "H W"]:
    if not mask_HW.any():
        raise UserError(
            where,
            expected="a mask with an object",
            got="no pixel inside the image",
            remedy="mend it, or leave the sample out",
        )
    return mask_HW

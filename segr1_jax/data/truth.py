"""What a sample's true mask is made of: a picture, polygons, or a COCO annotation. All are read at the size of the image.

Shape legend: H W the upright image in pixels.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

from segr1_jax.data.images import open_mask, require_same_size, upright_size
from segr1_jax.errors import UserError
from segr1_jax.extras import optional_package


class Masks(NamedTuple):
    """The object, and the pixels that no metric counts (None: all count)."""

    object: Bool[np.ndarray, "H W"]
    ignore: Bool[np.ndarray, "H W"] | None = None


@runtime_checkable
class Truth(Protocol):
    """A mask on disk. Both methods raise UserError where it cannot be had."""

    def check(self, width: int, height: int) -> None:
        """What can be seen without decoding pixels."""

    def read(self, height: int, width: int) -> Masks: ...


@dataclasses.dataclass(frozen=True)
class MaskFile:
    """A picture, white on black."""

    path: Path

    def check(self, width: int, height: int) -> None:
        require_same_size(self.path, upright_size(self.path, "mask"), (width, height))

    def read(self, height: int, width: int) -> Masks:
        return Masks(open_mask(self.path, height, width))


class Polygon(NamedTuple):
    """Corners (x, y) in pixels; `counts` is False for a region that no metric counts."""

    corners: Sequence[tuple[float, float]]
    counts: bool = True


@dataclasses.dataclass(frozen=True)
class Polygons:
    """Filled polygons, the largest first, so that a smaller one is seen on a larger; `where` names their file."""

    where: str
    polygons: tuple[Polygon, ...]

    def check(self, width: int, height: int) -> None:
        if not any(polygon.counts for polygon in self.polygons):
            raise UserError(self.where, expected="a polygon of the target", got="none", remedy="annotate it, or leave the sample out")

    def read(self, height: int, width: int) -> Masks:
        self.check(width, height)
        drawn = [(_filled(polygon.corners, height, width), polygon.counts) for polygon in self.polygons]
        object_HW, ignore_HW = np.zeros((2, height, width), bool)
        for region_HW, counts in sorted(drawn, key=lambda item: -int(item[0].sum())):
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
        require_same_size(Path(self.where), (self.width, self.height), (width, height))
        if not self.segmentation:
            raise UserError(self.where, expected="a segmentation", got="an empty one", remedy="annotate it, or leave the sample out")

    def read(self, height: int, width: int) -> Masks:
        self.check(width, height)
        coco = optional_package("pycocotools.mask", "eval")
        try:
            codes = self.segmentation
            if isinstance(codes, list) or isinstance(codes["counts"], list):
                codes = coco.frPyObjects(codes, height, width)
            mask_HW = coco.decode(coco.merge(codes) if isinstance(codes, list) else codes).astype(bool)
        except Exception as error:  # pycocotools raises bare Exception for some malformed codes
            got = f"{type(error).__name__}: {error}"
            raise UserError(self.where, expected="polygons or a run-length code as COCO has them", got=got, remedy="mend it") from error
        require_same_size(Path(self.where), mask_HW.shape[::-1], (width, height))
        return Masks(_not_empty(mask_HW, self.where))


@dataclasses.dataclass(frozen=True)
class Unusable:
    """A truth whose annotation is at fault: found when the set was opened, reported when its turn comes."""

    error: UserError

    def check(self, width: int, height: int) -> None:
        raise self.error

    def read(self, height: int, width: int) -> Masks:
        raise self.error


def _filled(corners: Sequence[tuple[float, float]], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """Inside and outline, corners cut to whole pixels, as LISA draws ReasonSeg."""
    canvas = Image.new("1", (width, height))
    pixels = [(int(x), int(y)) for x, y in corners]
    ImageDraw.Draw(canvas).polygon(pixels, fill=1, outline=1)
    return np.asarray(canvas)


def _not_empty(mask_HW: Bool[np.ndarray, "H W"], where: str) -> Bool[np.ndarray, "H W"]:
    if not mask_HW.any():
        raise UserError(where, expected="a mask with an object", got="no pixel inside the image", remedy="mend it, or leave the sample out")
    return mask_HW

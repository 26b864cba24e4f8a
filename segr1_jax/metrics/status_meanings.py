"""What each status of an answer means, in words for the report page and the demo."""

from segr1_jax.metrics.predictions import QUARANTINED, SKIPPED
from segr1_jax.types import ParseStatus

MEANINGS = {
    ParseStatus.OK.value: "the answer is well formed",
    ParseStatus.TOO_LONG.value: "the answer is longer than the limit",
    ParseStatus.MISSING_THINK.value: "the answer does not begin with its reasoning",
    ParseStatus.MISSING_BOX.value: "there is no box after the reasoning",
    ParseStatus.MISSING_POINTS.value: "there is no list of points after the boxes",
    ParseStatus.MISSING_LABELS.value: "there is no list of labels after the points",
    ParseStatus.BAD_THINK.value: "the reasoning is malformed",
    ParseStatus.BAD_BOX.value: "a box is not four integers with x1 < x2 and y1 < y2",
    ParseStatus.BAD_POINTS.value: "the points are not a list of pairs of integers",
    ParseStatus.BAD_LABELS.value: "the labels are not a list of 0 and 1",
    ParseStatus.LABELS_MISMATCH.value: "there are not as many labels as points",
    ParseStatus.OUT_OF_FRAME.value: "a coordinate is outside the image",
    ParseStatus.TOO_MANY.value: "there are more boxes or points than the limit allows",
    ParseStatus.TRAILING_TEXT.value: "there is text after the labels",
    ParseStatus.UNFINISHED.value: "the answer ends before it is complete",
    QUARANTINED: "SAM2 failed on this answer, so there is no mask",
    SKIPPED: "the image or its mask cannot be read",
}


def meaning(status: str) -> str:
    """Return what a status means, or the status itself if it comes from another version."""
    return MEANINGS.get(status, status)

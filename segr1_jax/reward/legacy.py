"""The mask reward as the reference code computes it (Seg-R1 at ca1256f, grpo.py), so that published rewards stay reproducible.

Image and mask are stretched to 768 x 768 with Pillow's bilinear filter. SAM2 is given the image's channels in reverse order. Integers
that the policy spoke in its own frame (756: the processor rounds 768 down to a multiple of 28) are taken as pixels of the 768. The
ground truth, binary already, is compared with 128 once more and comes out empty, so S = 1 - mean(mask). An empty union has IoU 0.

    Worked: a 300x300 object, 0.7 IoU + 0.3 S. Perfect mask 0.7 + 0.3 (1 - 90000 / 768^2) = 0.954; empty mask 0.300; the whole image
    0.7 (90000 / 768^2) = 0.107.

Not reproduced, on purpose. Of its parser: `eval`, a pattern whose time doubles with each digit, tags found anywhere and in any order,
labels above 1, boxes with x1 >= x2, coordinates outside the frame; an answer is valid where segr1_jax.answer.grammar says so. Of its reward:
SAM2 built anew for each call and each box, faults of SAM2 turned into 0. Of its data: photos left lying on their side (EXIF), masks of
0 and 1 read as empty, soft edges interpolated before they are cut. The image that the policy sees is not affected.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from segr1_jax.reward.scores import s_measure
from segr1_jax.types import Answer, Example, Frame, Score, ScoreStatus

SIDE = 768
THRESHOLD = 127  # of the stretched mask's grey values


def legacy_example(example: Example) -> Example:
    """The example as SAM2 gets it: 768 x 768, the image's channels in BGR order."""
    image, mask = (
        _stretch(Image.fromarray(pixels))
        for pixels in (example.image, example.mask.astype(np.uint8) * 255)
    )
    return dataclasses.replace(
        example, image=np.ascontiguousarray(image[..., ::-1]), mask=mask > THRESHOLD
    )


def legacy_pairs(pairs: Sequence[tuple[Example, Answer]]) -> list[tuple[Example, Answer]]:
    """Legacy examples, each stretched once for all its answers, and the answers with their integers taken as pixels of the 768."""
    examples = {id(example): example for example, _ in pairs}
    stretched = {key: legacy_example(example) for key, example in examples.items()}
    return [
        (stretched[id(example)], dataclasses.replace(answer, frame=Frame(SIDE, SIDE)))
        for example, answer in pairs
    ]


def legacy_score(score: Score) -> Score:
    """The legacy terms from the score of a request that wanted its mask; one that could not be had stays so.

    Example:
        >>> legacy_score(Score(ScoreStatus.OK, iou=1.0, s_measure=1.0, mask=np.zeros((768, 768), bool))).iou
        0.0
    """
    if score.status is not ScoreStatus.OK:
        return score
    truth_seen_HW = np.zeros_like(score.mask)
    return dataclasses.replace(
        score,
        iou=score.iou if score.mask.any() else 0.0,
        s_measure=s_measure(score.mask, truth_seen_HW),
    )


def _stretch(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))

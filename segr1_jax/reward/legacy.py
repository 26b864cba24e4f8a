"""The mask reward of the reference code (Seg-R1 at ca1256f, grpo.py), to reproduce its results.

Differences from our reward, all reproduced here:

- Image and mask are stretched to 768 x 768 with Pillow's bilinear filter.
- SAM2 gets the channels of the image in reverse order.
- The policy writes integers in its own frame (756: the processor rounds 768 down to a multiple of
  28); they are taken as pixels of the 768 x 768 image.
- The ground truth is binary already, is compared with 128 a second time and becomes empty, so
  S = 1 - mean(mask).
- An empty union has IoU 0.

    Worked: a 300x300 object, 0.7 IoU + 0.3 S. Perfect mask 0.7 + 0.3 (1 - 90000 / 768^2) = 0.954;
    empty mask 0.300; the whole image 0.7 (90000 / 768^2) = 0.107.

Not reproduced, on purpose:

- Parser: `eval`, a pattern whose time doubles with each digit, tags found anywhere and in any
  order, labels above 1, boxes with x1 >= x2, coordinates outside the frame. An answer is valid if
  segr1_jax.answer.grammar accepts it.
- Reward: building SAM2 for each call and each box, errors of SAM2 turned into a reward of 0.
- Data: photos that ignore their EXIF rotation, masks of 0 and 1 read as empty, soft edges
  interpolated before they are thresholded.

The image that the policy sees is not affected.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from segr1_jax.reward.scores import s_measure
from segr1_jax.types import Answer, Example, Frame, Score, ScoreStatus

SIDE = 768
THRESHOLD = 127  # a stretched mask is foreground where its gray value is larger


def legacy_example(example: Example) -> Example:
    """Return the example as SAM2 gets it: 768 x 768, the channels of the image in BGR order."""
    image, mask = (
        _stretch(Image.fromarray(pixels))
        for pixels in (example.image, example.mask.astype(np.uint8) * 255)
    )
    return dataclasses.replace(
        example, image=np.ascontiguousarray(image[..., ::-1]), mask=mask > THRESHOLD
    )


def legacy_pairs(pairs: Sequence[tuple[Example, Answer]]) -> list[tuple[Example, Answer]]:
    """Return the legacy pairs: examples and answers in the 768 x 768 frame.

    Each example is stretched once for all its answers; the integers of the answers do not change.
    """
    examples = {id(example): example for example, _ in pairs}
    stretched = {key: legacy_example(example) for key, example in examples.items()}
    return [
        (stretched[id(example)], dataclasses.replace(answer, frame=Frame(SIDE, SIDE)))
        for example, answer in pairs
    ]


def legacy_score(score: Score) -> Score:
    """Return the legacy terms from the score of a request that wanted its mask.

    A score that is not OK is returned unchanged.

    Example:
        >>> empty = np.zeros((768, 768), bool)
        >>> legacy_score(Score(ScoreStatus.OK, iou=1.0, s_measure=1.0, mask=empty)).iou
        0.0
    """
    if score.status is not ScoreStatus.OK:
        return score
    empty_truth_HW = np.zeros_like(score.mask)
    return dataclasses.replace(
        score,
        iou=score.iou if score.mask.any() else 0.0,
        s_measure=s_measure(score.mask, empty_truth_HW),
    )


def _stretch(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))

"""Pictures of the first held-out samples: image, predicted mask with its prompts, truth.

They are the same samples in every evaluation, so that a tracker shows how their masks change.

Shape legend: H W native image in pixels.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from segr1_jax.answer.grammar import sam_prompts
from segr1_jax.common.drawing import panel, reduced
from segr1_jax.reward.judging import AnswerText, Judged
from segr1_jax.reward.resize import resize_mask
from segr1_jax.runtime.trackers.tracker import Picture
from segr1_jax.types import Answer, Example, SamPrompt

PANELS = 8
SIDE = 320  # pixels, the longer side of each of the three pictures


class Panels:
    """Collector of the pictures of the first `most` answers of an evaluation."""

    def __init__(self, most: int):
        self._most = most
        self.pictures: list[Picture] = []

    def add(self, texts: Sequence[AnswerText], judged: Sequence[Judged]) -> None:
        """Draw the answers of a batch, while fewer than `most` are drawn."""
        left = self._most - len(self.pictures)
        self.pictures += map(_picture, texts[:left], judged[:left])


def native_mask(
    mask_HW: Bool[np.ndarray, "H W"] | None, example: Example
) -> Bool[np.ndarray, "H W"]:
    """Return the predicted mask, an empty one for an answer without a mask."""
    return np.zeros(example.image.shape[:2], bool) if mask_HW is None else mask_HW


def native_truth(example: Example) -> Bool[np.ndarray, "H W"]:
    """Return the truth at the size of the image."""
    return resize_mask(example.mask, example.image.shape[:2])


def native_prompts(answer: Answer | None, example: Example) -> tuple[SamPrompt, ...]:
    """Return the prompts of an answer in pixels of the image."""
    return sam_prompts(answer, example.frame) if answer else ()


def _picture(item: AnswerText, judged: Judged) -> Picture:
    example, reward = item.example, judged.reward
    mask_HW, truth_HW = native_mask(judged.mask, example), native_truth(example)
    prompts = native_prompts(judged.answer, example)
    image, mask, moved = reduced(example.image, mask_HW, prompts, SIDE)
    _, truth, _ = reduced(example.image, truth_HW, (), SIDE)
    head = f"{example.name}: {reward.parse.value}, IoU {reward.iou:.3f}"
    lines = filter(None, (head, example.instruction, item.text))
    # Names of files may hold bytes that are not UTF-8.
    text = "\n".join(lines).encode("utf-8", "replace").decode()
    return Picture(f"eval/sample_{example.id:06d}", panel(image, mask, truth, moved), text)

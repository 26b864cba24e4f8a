"""What the policy is compared with: the best constant answer, the ground truth's own prompt, answers given to the wrong image."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from segr1_jax.answer import render
from segr1_jax.eval.metrics import aggregate, best_constant_box
from segr1_jax.eval.run import Scorer
from segr1_jax.judge import AnswerText
from segr1_jax.sft import target_answer
from segr1_jax.types import Answer, Example, Frame


def constant_answer(masks: Sequence[Bool[np.ndarray, "_H _W"]], frame: Frame) -> Answer:
    """The one answer that fits the most: the best constant box on `masks`, with a point in its middle."""
    scale = (frame.width, frame.height) * 2
    x1, y1, x2, y2 = (round(side * size) for side, size in zip(best_constant_box(masks), scale, strict=True))
    return Answer("the same answer for every image", ((x1, y1, x2, y2),), (((x1 + x2) // 2, (y1 + y2) // 2),), (1,), frame)


def constant_figures(scorer: Scorer, masks: Sequence[Bool[np.ndarray, "_H _W"]], held_out: Sequence[Example]) -> dict[str, float]:
    """Every held-out example answered by the box that is best on `masks` (training masks: the held-out ones stay unseen)."""
    text = render(constant_answer(masks, scorer.frame), task=scorer.task)
    return aggregate(scorer.rows([AnswerText(example, text) for example in held_out])[0])


def truth_figures(scorer: Scorer, held_out: Sequence[Example], *, interior: int, exterior: int) -> dict[str, float]:
    """Every example answered from its own mask: what SAM2 makes of a perfect prompt."""

    def text(example: Example) -> str:
        return render(target_answer(example.mask, scorer.frame, interior=interior, exterior=exterior, name=example.name), task=scorer.task)

    return aggregate(scorer.rows([AnswerText(example, text(example)) for example in held_out])[0])


def shuffled_figures(scorer: Scorer, answered: Sequence[AnswerText]) -> dict[str, float]:
    """Each example gets the answer of the next one: what remains when answers no longer look at their image."""
    moved = [
        AnswerText(item.example, other.text, other.finished) for item, other in zip(answered, [*answered[1:], answered[0]], strict=True)
    ]
    return aggregate(scorer.rows(moved)[0])

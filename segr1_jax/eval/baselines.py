"""What the policy is compared with: the best constant answer, the ground truth's own prompt, answers given to the wrong image."""

from collections.abc import Sequence

import numpy as np

from segr1_jax.answer import render
from segr1_jax.eval.metrics import EvalRow, best_constant_box
from segr1_jax.eval.run import Scorer
from segr1_jax.judge import AnswerText
from segr1_jax.sft import target_answer
from segr1_jax.types import Answer, Example, Frame

SCALES = (
    0.7,
    0.85,
    1.0,
    1.2,
    1.5,
)  # of the sides of the box that fits best as a rectangle: SAM2 may prefer another size
TRIALS = 100  # training examples each candidate is tried on


def constant_candidates(examples: Sequence[Example], frame: Frame) -> list[Answer]:
    """The constant box that fits the masks of `examples` best as a rectangle, at several scales, each with a point in its middle."""
    x1, y1, x2, y2 = best_constant_box([example.mask for example in examples])
    middle, half = np.array([x1 + x2, y1 + y2]) / 2, np.array([x2 - x1, y2 - y1]) / 2
    size = np.array([frame.width, frame.height])

    def answer(scale: float) -> Answer:
        corners = np.clip(
            np.concatenate([middle - scale * half, middle + scale * half]), 0, 1
        ) * np.tile(size, 2)
        box, point = (tuple(int(v) for v in np.rint(values)) for values in (corners, middle * size))
        return Answer("the same answer for every image", (box,), (point,), (1,), frame)

    return [answer(scale) for scale in SCALES]


def constant_rows(
    scorer: Scorer, training: Sequence[Example], held_out: Sequence[Example]
) -> list[EvalRow]:
    """Every held-out example answered alike, by the candidate whose SAM2 masks are best on training examples."""
    frame = scorer.frame_of(training[0])  # a training run has one for all (train/run.py)
    texts = [render(answer, task=scorer.task) for answer in constant_candidates(training, frame)]

    def trial(text: str) -> float:
        rows, _ = scorer.rows([AnswerText(example, text) for example in training[:TRIALS]])
        return float(np.mean([row.iou for row in rows]))

    best = max(texts, key=trial)
    return scorer.rows([AnswerText(example, best) for example in held_out])[0]


def truth_rows(
    scorer: Scorer, held_out: Sequence[Example], *, interior: int, exterior: int
) -> list[EvalRow]:
    """Every example answered from its own mask: what SAM2 makes of a perfect prompt."""

    def text(example: Example) -> str:
        answer = target_answer(
            example.mask,
            scorer.frame_of(example),
            interior=interior,
            exterior=exterior,
            name=example.name,
        )
        return render(answer, task=scorer.task)

    return scorer.rows([AnswerText(example, text(example)) for example in held_out])[0]


def shuffled_rows(scorer: Scorer, answered: Sequence[AnswerText]) -> list[EvalRow]:
    """Each example gets the answer of the next one: what remains when answers no longer look at their image."""
    shifted = [*answered[1:], *answered[:1]]
    moved = [
        AnswerText(item.example, other.text, other.finished)
        for item, other in zip(answered, shifted, strict=True)
    ]
    return scorer.rows(moved)[0]

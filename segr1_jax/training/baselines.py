"""Baselines: constant answers, prompts from the truth, answers to other images."""

import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Bool

from segr1_jax.answer.grammar import render
from segr1_jax.answer.targets import target_answer
from segr1_jax.data.sources import Source
from segr1_jax.metrics.held_out_figures import EvalRow, best_constant_box
from segr1_jax.reward.judging import AnswerText
from segr1_jax.training.evaluation import Given, Scorer, answered
from segr1_jax.types import Answer, Example, Frame

SCALES = (
    0.7,
    0.85,
    1.0,
    1.2,
    1.5,
)  # of the sides of the best rectangle; SAM2 may work better with a smaller or larger box
TRIALS = 100  # training examples each candidate is tried on


def constant_candidates(masks: Iterable[Bool[np.ndarray, "_H _W"]], frame: Frame) -> list[Answer]:
    """Return the box that fits `masks` best, at several scales, each with a point in its middle."""
    x1, y1, x2, y2 = best_constant_box(masks)
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
    scorer: Scorer, training: Callable[[], Iterable[Example]], held_out: Iterable[Example]
) -> list[EvalRow]:
    """Give every held-out example the same answer: the candidate that is best on training data.

    `training` reads its examples again at each call; one of them is alive at a time.
    """
    # A training run has one frame for all (training/run.py).
    frame = scorer.frame_of(next(iter(training())))
    candidates = constant_candidates((example.mask for example in training()), frame)
    texts = [render(answer, task=scorer.task) for answer in candidates]
    ious: dict[str, list[float]] = {text: [] for text in texts}
    for example in itertools.islice(training(), TRIALS):
        for row in scorer.rows([AnswerText(example, text) for text in texts])[0]:
            ious[row.text].append(row.iou)
    best = max(texts, key=lambda text: float(np.mean(ious[text])))
    return scorer.streamed_rows(AnswerText(example, best) for example in held_out)


def truth_rows(
    scorer: Scorer, held_out: Iterable[Example], *, interior: int, exterior: int
) -> list[EvalRow]:
    """Answer every example from its own mask: the score of a perfect prompt."""

    def text(example: Example) -> str:
        answer = target_answer(
            example.mask,
            scorer.frame_of(example),
            interior=interior,
            exterior=exterior,
            name=example.name,
        )
        return render(answer, task=scorer.task)

    return scorer.streamed_rows(AnswerText(example, text(example)) for example in held_out)


def shuffled_rows(scorer: Scorer, source: Source, answers: Sequence[Given]) -> list[EvalRow]:
    """Give each example the answer to the next one: the score of answers that ignore images."""
    shifted = [*answers[1:], *answers[:1]]
    moved = [other._replace(index=own.index) for own, other in zip(answers, shifted, strict=True)]
    return scorer.streamed_rows(answered(source, moved))

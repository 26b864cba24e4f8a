"""Greedy answers over a held-out set, scored like training but once per image, over all processes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from segr1_jax.eval.metrics import EvalRow, aggregate, mean_absolute_error
from segr1_jax.judge import AnswerText, Judged, collect, submit
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.config import RewardWeights
from segr1_jax.types import Completion, Example, Frame, ParseStatus, Prompt

STATUSES = tuple(ParseStatus)


@dataclass(frozen=True)
class Scorer:
    """How answers become rows: the sidecar, the frame that answers about an example speak in, the task's grammar."""

    client: RewardClient
    frame_of: Callable[[Example], Frame]
    task: str
    weights: RewardWeights = RewardWeights()

    def rows(self, texts: Sequence[AnswerText]) -> tuple[list[EvalRow], list[Judged]]:
        """Score each text on its own example. Invalid answers keep the worst values; what the sidecar could not score has no row."""
        pending = submit(self.client, texts, self.frame_of, self.task, want_masks=True)
        judged = collect(self.client, pending, self.weights)
        return [
            _row(text, result)
            for text, result in zip(texts, judged, strict=True)
            if result.reward.valid
        ], judged


@dataclass(frozen=True)
class Evaluation:
    """Figures over the whole set (all processes), and this process's answers with what became of them."""

    figures: dict[str, float]
    rows: list[EvalRow]
    texts: list[AnswerText]
    judged: list[Judged]


def evaluate(
    batches: Iterable[Sequence[tuple[Example, Prompt]]],
    answer: Callable[[Sequence[Prompt]], list[Completion]],
    scorer: Scorer,
    total: int,
    sum_over_processes: Callable[[np.ndarray], np.ndarray],
) -> Evaluation:
    """Answer and score every example.

    `batches` are this process's (example, prompt) pairs. `answer` runs one jitted program over all processes, so every process
    must bring equally many batches; an empty one still takes part. `total` is the size of the whole set.
    """
    rows, texts, judged = [], [], []
    for pairs in batches:
        for example, _ in pairs:
            scorer.client.encode(example.image)
        completions = answer([prompt for _, prompt in pairs])
        answered = [
            AnswerText(example, done.text, done.finished)
            for (example, _), done in zip(pairs, completions, strict=True)
        ]
        new_rows, new_judged = scorer.rows(answered)
        rows, texts, judged = rows + new_rows, texts + answered, judged + new_judged
    return Evaluation(figures_everywhere(rows, total, sum_over_processes), rows, texts, judged)


def _row(item: AnswerText, result: Judged) -> EvalRow:
    reward, example = result.reward, item.example
    if result.mask is None:
        return EvalRow(example.id, example.name, item.text, reward.parse)
    mae = mean_absolute_error(result.mask, example.mask)
    return EvalRow(
        example.id, example.name, item.text, reward.parse, reward.iou, reward.s_measure, mae
    )


def figures_everywhere(
    rows: Sequence[EvalRow], total: int, sum_over_processes: Callable[[np.ndarray], np.ndarray]
) -> dict[str, float]:
    """The figures over the rows of all processes, whose example ids are below `total`."""
    table = np.zeros((total, 5), np.float64)
    for row in rows:
        table[row.example_id] = (1, STATUSES.index(row.parse), row.iou, row.s_measure, row.mae)
    found = sum_over_processes(table)
    return aggregate(
        [
            EvalRow(example_id, "", "", STATUSES[int(status)], iou, s_measure, mae)
            for example_id, (present, status, iou, s_measure, mae) in enumerate(found.tolist())
            if present
        ]
    )

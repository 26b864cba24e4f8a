"""Evaluate greedy answers on a held-out set, scored as in training, over all processes."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from segr1_jax.data.sources import Source
from segr1_jax.metrics.held_out_figures import TERMS, EvalRow, aggregate, mean_absolute_error
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.judging import AnswerText, Judged, Pending, collect, one_behind, submit
from segr1_jax.reward.resize import resize_mask
from segr1_jax.reward.terms import Terms
from segr1_jax.types import Completion, Example, Frame, ParseStatus, Prompt

STATUSES = tuple(ParseStatus)
AT_ONCE = 8  # texts whose native images and masks are alive together

Watch = Callable[[Sequence[AnswerText], Sequence[Judged]], None]


@dataclass(frozen=True)
class Scorer:
    """Turn answers into rows: client, frame of coordinates, grammar of the task, terms.

    The rows have the values of own terms, not the total of the reward.
    """

    client: RewardClient
    frame_of: Callable[[Example], Frame]
    task: str
    terms: Terms

    def rows(self, texts: Sequence[AnswerText]) -> tuple[list[EvalRow], list[Judged]]:
        """Score each text on its own example.

        Invalid answers have the worst values. Answers that could not be scored have no row.
        """
        return self.collect(self.submit(texts))

    def submit(self, texts: Sequence[AnswerText]) -> tuple[Sequence[AnswerText], Pending]:
        """Submit `texts` for scoring; `collect` waits for the scores."""
        return texts, submit(self.client, texts, self.frame_of, self.task, want_masks=True)

    def collect(
        self, submitted: tuple[Sequence[AnswerText], Pending]
    ) -> tuple[list[EvalRow], list[Judged]]:
        """Return the rows of submitted texts."""
        texts, pending = submitted
        judged = collect(self.client, pending, self.terms)
        return [
            _row(text, result)
            for text, result in zip(texts, judged, strict=True)
            if result.reward.valid or result.fault
        ], judged

    def each(self, texts: Iterable[AnswerText]) -> Iterator[tuple[AnswerText, Judged]]:
        """Score texts a few at a time, so that few images are alive at once."""
        for some in _few(texts):
            yield from zip(some, self.rows(some)[1], strict=True)

    def streamed_rows(self, texts: Iterable[AnswerText]) -> list[EvalRow]:
        """Return the rows of texts, with the images of a few of them alive at once."""
        return [row for some in _few(texts) for row in self.rows(some)[0]]


class Given(NamedTuple):
    """The answer to the example `index` of the held-out set."""

    index: int
    text: str
    finished: bool


@dataclass(frozen=True)
class Evaluation:
    """Figures over the whole set (all processes), and this process's rows and answers.

    Neither images nor masks are kept: for a set of large photos they take tens of gigabytes. Code
    that needs them reads and scores the examples again (`answered`, Scorer.each).
    """

    figures: dict[str, float]
    rows: list[EvalRow]
    answers: list[Given]


def answered(source: Source, answers: Iterable[Given]) -> Iterator[AnswerText]:
    """Yield the answers with their examples, which are read one at a time."""
    return (AnswerText(source[given.index], given.text, given.finished) for given in answers)


def answer_texts(
    client: RewardClient,
    answer: Callable[[Sequence[Prompt]], list[Completion]],
    pairs: Sequence[tuple[Example, Prompt]],
) -> list[AnswerText]:
    """Return the answer to each example; images are encoded while the policy writes."""
    for example, _ in pairs:
        client.encode(example.image)
    completions = answer([prompt for _, prompt in pairs])
    return [
        AnswerText(example, done.text, done.finished)
        for (example, _), done in zip(pairs, completions, strict=True)
    ]


def evaluate(
    batches: Iterable[Sequence[tuple[Example, Prompt]]],
    answer: Callable[[Sequence[Prompt]], list[Completion]],
    scorer: Scorer,
    total: int,
    sum_over_processes: Callable[[np.ndarray], np.ndarray],
    watch: Watch = lambda texts, judged: None,
) -> Evaluation:
    """Answer and score every example.

    `batches` are this process's (example, prompt) pairs. `answer` runs one jitted program over all
    processes, so every process brings the same number of batches, empty ones included. `total` is
    the size of the whole set. `watch` is given each batch while its images and masks are alive.
    """
    rows, answers = [], []

    def submitted():
        for pairs in batches:
            texts = answer_texts(scorer.client, answer, pairs)
            answers.extend(Given(text.example.id, text.text, text.finished) for text in texts)
            yield scorer.submit(texts)

    def finish(batch: tuple[Sequence[AnswerText], Pending]) -> None:
        found, judged = scorer.collect(batch)
        rows.extend(found)
        watch(batch[0], judged)

    for _ in one_behind(submitted(), finish):
        pass
    names = scorer.terms.own_names
    return Evaluation(figures_everywhere(rows, total, sum_over_processes, names), rows, answers)


def _few(texts: Iterable[AnswerText]) -> Iterator[list[AnswerText]]:
    left = iter(texts)
    while some := list(itertools.islice(left, AT_ONCE)):
        yield some


def _row(item: AnswerText, result: Judged) -> EvalRow:
    reward, example = result.reward, item.example
    invalid = EvalRow(
        example_id=example.id,
        name=example.name,
        text=item.text,
        parse=reward.parse,
        own=reward.own,
    )
    if result.mask is None:
        return invalid
    mae = mean_absolute_error(resize_mask(result.mask, example.mask.shape), example.mask)
    return replace(invalid, iou=reward.iou, s_measure=reward.s_measure, mae=mae)


def figures_everywhere(
    rows: Sequence[EvalRow],
    total: int,
    sum_over_processes: Callable[[np.ndarray], np.ndarray],
    own_names: Sequence[str],
) -> dict[str, float]:
    """Return figures over the rows of all processes, whose example ids are below `total`."""
    table = np.zeros((total, 2 + len(TERMS) + len(own_names)), np.float64)
    for row in rows:
        found = [getattr(row, name) for name in TERMS]
        own = [row.own[name] for name in own_names]
        table[row.example_id] = (1, STATUSES.index(row.parse), *found, *own)
    return aggregate(
        [
            EvalRow(
                example_id=example_id,
                name="",
                text="",
                parse=STATUSES[int(status)],
                **dict(zip(TERMS, values, strict=False)),
                own=dict(zip(own_names, values[len(TERMS) :], strict=True)),
            )
            for example_id, (present, status, *values) in enumerate(
                sum_over_processes(table).tolist()
            )
            if present
        ]
    )

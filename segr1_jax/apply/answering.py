"""A trained policy that answers: examples to texts and masks, a whole set to a folder of predictions."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from segr1_jax.answer import sam_prompts
from segr1_jax.apply.opened import Opened
from segr1_jax.apply.resumable import write_lines
from segr1_jax.data.entries import FileSource
from segr1_jax.data.pipeline import Sample, Unreadable, walk
from segr1_jax.data.sources import Source
from segr1_jax.eval.predictions import (
    QUARANTINED,
    SKIPPED,
    Prediction,
    as_records,
    read_predictions,
    write_mask,
)
from segr1_jax.judge import AnswerText, Judged, collect, submit
from segr1_jax.reward.client import RewardClient
from segr1_jax.train.held_out import FILLER, Answerer
from segr1_jax.types import Example, ParseStatus, Prompt


@dataclasses.dataclass(frozen=True)
class Responder:
    """A policy and its sidecar, ready to answer greedily."""

    opened: Opened
    client: RewardClient

    @property
    def rows(self) -> int:
        """Prompts that this process answers at a time."""
        return self.opened.engine.config.eval_batch // jax.process_count()

    def answerer(self) -> Answerer:
        """Prompts to completions, in batches of `rows`."""
        engine = self.opened.engine
        return Answerer(
            engine, self.opened.rollout_weights, self.rows, engine.builder.build(FILLER)
        )

    def answer(
        self, answerer: Answerer, pairs: Sequence[tuple[Example, Prompt]]
    ) -> list[tuple[AnswerText, Judged]]:
        """Texts and masks for up to `rows` examples; images are encoded while the policy writes."""
        for example, _ in pairs:
            self.client.encode(example.image)
        done = answerer([prompt for _, prompt in pairs])
        texts = [
            AnswerText(example, each.text, each.finished)
            for (example, _), each in zip(pairs, done, strict=True)
        ]
        return list(zip(texts, self.judge(texts), strict=True))

    def judge(self, texts: Sequence[AnswerText]) -> list[Judged]:
        """Masks for what was answered, at native size. An empty truth is sent along; the scores against it are not used."""
        engine = self.opened.engine
        blank = [dataclasses.replace(item, example=_blank(item.example)) for item in texts]
        pending = submit(
            self.client, blank, engine.builder.frame_of, engine.config.prompt.task, want_masks=True
        )
        return collect(self.client, pending, engine.config.reward.weights)


def answer_set(
    responder: Responder,
    source: Source,
    folder: Path,
    identity: dict[str, Any],
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Prediction]:
    """Answer every example of `source` into `folder` (resumable.py) and return all predictions, in its order, in every process."""
    photos = _photos(source)

    def lines_from(positions: range) -> Iterator[list[str]]:
        answerer = responder.answerer()
        batches = walk(
            source, responder.opened.engine.builder.build, positions, batch=responder.rows
        )
        for samples in itertools.chain(batches, itertools.repeat([])):
            yield [
                prediction.line()
                for prediction in _predict(responder, answerer, samples, folder, photos)
            ]

    return list(
        read_predictions(
            write_lines(folder, identity, len(source), responder.rows, lines_from, progress)
        )
    )


def _predict(
    responder: Responder,
    answerer: Answerer,
    samples: Sequence[Sample | Unreadable],
    folder: Path,
    photos: Mapping[str, str],
) -> Iterator[Prediction]:
    """One prediction per sample, in order."""
    pairs = [(sample.example, sample.prompt) for sample in samples if isinstance(sample, Sample)]
    answered = iter(responder.answer(answerer, pairs))
    for sample in samples:
        if isinstance(sample, Unreadable):
            yield Prediction(sample.name, SKIPPED, photos.get(sample.name), reason=sample.reason)
        else:
            yield as_prediction(*next(answered), folder, photos.get(sample.example.name))


def _photos(source: Source) -> dict[str, str]:
    """Name -> its image below the folder that all images of the set share."""
    if not isinstance(source, FileSource):
        return {}
    folder = os.path.commonpath([entry.image.parent for entry in source.entries])
    return {entry.name: entry.image.relative_to(folder).as_posix() for entry in source.entries}


def as_prediction(item: AnswerText, judged: Judged, folder: Path, photo: str | None) -> Prediction:
    """The line of one answer; its mask is written below `folder`."""
    example, status = item.example, judged.reward.parse.value
    if judged.reward.parse is ParseStatus.OK and judged.mask is None:
        status = QUARANTINED
    mask = None if judged.mask is None else write_mask(folder, example.name, judged.mask)
    prompts = as_records(sam_prompts(judged.answer, example.frame)) if judged.answer else ()
    return Prediction(example.name, status, photo, example.instruction, item.text, mask, prompts)


def _blank(example: Example) -> Example:
    return dataclasses.replace(example, mask=np.zeros(example.image.shape[:2], bool))

"""Answer with a trained policy: examples to texts and masks, a set to a folder of predictions."""

import contextlib
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from segr1_jax.answer.grammar import sam_prompts
from segr1_jax.common.files import make_durable
from segr1_jax.config.schema import RunConfig
from segr1_jax.data.file_entries import FileSource
from segr1_jax.data.pipeline import Sample, Unreadable, ahead_of, walk
from segr1_jax.data.sample_digests import sample_digest
from segr1_jax.data.sources import Source
from segr1_jax.infer.load_policy import Opened, open_policy
from segr1_jax.infer.resumable_lines import write_lines
from segr1_jax.metrics.predictions import (
    QUARANTINED,
    SKIPPED,
    Prediction,
    as_records,
    read_predictions,
    remove_mask,
    write_mask,
)
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.judging import AnswerText, Judged, Pending, collect, one_behind, submit
from segr1_jax.training.evaluation import answer_texts
from segr1_jax.training.held_out import FILLER, Answerer
from segr1_jax.types import Example, ParseStatus

WRITERS = 8  # threads that make and write the masks and pictures of a batch


@dataclasses.dataclass(frozen=True)
class Responder:
    """A policy and its sidecar, ready to answer greedily."""

    opened: Opened
    client: RewardClient

    @property
    def rows(self) -> int:
        """Number of prompts that this process answers at a time."""
        return self.opened.engine.config.eval_batch // jax.process_count()

    def answerer(self) -> Answerer:
        """Return the function from prompts to completions, in batches of `rows`."""
        engine = self.opened.engine
        return Answerer(
            engine, self.opened.rollout_weights, self.rows, engine.builder.build(FILLER)
        )

    def judge(self, texts: Sequence[AnswerText]) -> list[Judged]:
        """Return masks of the answers at native size."""
        return self.collect(self.submit(texts))

    def submit(self, texts: Sequence[AnswerText]) -> Pending:
        """Submit answers for their masks, with an empty truth; scores against it are not used."""
        engine = self.opened.engine
        blank = [dataclasses.replace(item, example=_blank(item.example)) for item in texts]
        return submit(
            self.client, blank, engine.builder.frame_of, engine.config.prompt.task, want_masks=True
        )

    def collect(self, pending: Pending) -> list[Judged]:
        """Wait for the masks of one `submit`."""
        return collect(self.client, pending, None)


@dataclasses.dataclass(frozen=True)
class Asked:
    """A batch whose masks are pending; samples that cannot be read keep their places."""

    positions: range
    entries: list[AnswerText | Unreadable]
    pending: Pending

    @property
    def texts(self) -> list[AnswerText]:
        return [each for each in self.entries if isinstance(each, AnswerText)]


def answer_set(
    responder: Responder,
    source: Source,
    folder: Path,
    identity: dict[str, Any],
    progress: Callable[[int, int], None] = lambda *_: None,
    show: Callable[[AnswerText, Judged], Path | None] = lambda *_: None,
) -> list[Prediction]:
    """Answer every example of `source` into `folder` and return all predictions in its order.

    Every process returns them. An interrupted call continues (resumable_lines.py).

    `show` may write a picture of an answer, and returns its path. Several threads call it.
    """
    photos = _photos(source)

    def lines_from(positions: range, count: int) -> Iterator[list[str]]:
        return one_behind(_ask(responder, source, positions, count), finished)

    # Masks do not leave this function. Returning them would keep a third batch alive.
    def finished(batch: Asked) -> list[str]:
        judged = responder.collect(batch.pending)
        # The policy waits until masks and overlays are written. For large photos, one thread would
        # take as long as generating the answers.
        with ThreadPoolExecutor(WRITERS) as pool:
            shown = list(pool.map(show, batch.texts, judged))
            digests = pool.map(functools.partial(sample_digest, source), batch.positions)
            made = _predict(batch, judged, folder, photos, pool)
            predictions = [
                dataclasses.replace(each, sample=digest)
                for each, digest in zip(made, digests, strict=True)
            ]
        masks = [folder / each.mask for each in predictions if each.mask]
        make_durable([*masks, *filter(None, shown)])
        return [prediction.line() for prediction in predictions]

    names, rows = source.names, responder.rows

    def foreign(position: int, line: bytes) -> str | None:
        about = f'"sample": "{sample_digest(source, position)}"'.encode()
        return None if about in line else names[position]

    path = write_lines(folder, identity, len(source), rows, lines_from, progress, foreign)
    return list(read_predictions(path))


def _ask(responder: Responder, source: Source, positions: range, count: int) -> Iterator[Asked]:
    """Yield `count` batches; the last ones are empty where there are fewer `positions`."""
    builder, config = responder.opened.engine.builder, responder.opened.engine.config
    answerer = responder.answerer()
    ahead = ahead_of(config.loader, source, builder.prompt_bytes)
    batches = walk(source, builder.build, positions, batch=responder.rows, ahead=ahead)
    filled = itertools.islice(itertools.chain(batches, itertools.repeat([])), count)
    for number, samples in enumerate(filled):
        here = positions[number * responder.rows :][: responder.rows]
        readable = [(s.example, s.prompt) for s in samples if isinstance(s, Sample)]
        texts = answer_texts(responder.client, answerer, readable)
        left = iter(texts)
        entries = [each if isinstance(each, Unreadable) else next(left) for each in samples]
        yield Asked(here, entries, responder.submit(texts))


def _predict(
    batch: Asked,
    judged: Sequence[Judged],
    folder: Path,
    photos: Mapping[str, str],
    pool: ThreadPoolExecutor,
) -> Iterator[Prediction]:
    """Yield one prediction per sample, in order."""
    named = [photos.get(text.example.name) for text in batch.texts]
    made = pool.map(as_prediction, batch.texts, judged, itertools.repeat(folder), named)
    for entry in batch.entries:
        if isinstance(entry, Unreadable):
            remove_mask(folder, entry.name)
            yield Prediction(entry.name, SKIPPED, photos.get(entry.name), reason=entry.reason)
        else:
            yield next(made)


def _photos(source: Source) -> dict[str, str]:
    """Return the image of each name, relative to the folder that all images of the set share.

    Images inside a table have no path.
    """
    if not isinstance(source, FileSource):
        return {}
    files = {entry.name: entry.image for entry in source.entries if isinstance(entry.image, Path)}
    images = {name: image.absolute() for name, image in files.items()}
    if not images:
        return {}
    folder = os.path.commonpath([image.parent for image in images.values()])
    return {name: image.relative_to(folder).as_posix() for name, image in images.items()}


def as_prediction(item: AnswerText, judged: Judged, folder: Path, photo: str | None) -> Prediction:
    """Return the line of one answer, with its mask written below `folder`."""
    example, status = item.example, judged.reward.parse.value
    if judged.reward.parse is ParseStatus.OK and judged.mask is None:
        status = QUARANTINED
    # A batch that was cut short has masks without lines.
    remove_mask(folder, example.name)
    mask = None if judged.mask is None else write_mask(folder, example.name, judged.mask)
    prompts = as_records(sam_prompts(judged.answer, example.frame)) if judged.answer else ()
    return Prediction(example.name, status, photo, example.instruction, item.text, mask, prompts)


def _blank(example: Example) -> Example:
    return dataclasses.replace(example, mask=np.zeros(example.image.shape[:2], bool))


@contextlib.contextmanager
def responding(config: RunConfig, source: Path) -> Iterator[Responder]:
    """Open the policy in `source` and start its sidecar, which makes masks at native size."""
    config = dataclasses.replace(config, reward=config.reward.at_native_size())
    opened = open_policy(config, source)
    with RewardClient(config.reward) as client:
        yield Responder(opened, client)

"""Predictions against the truth of their set: a pure function of files, the same for our answers and for somebody else's."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segr1_jax.data.sources import Source
from segr1_jax.errors import UserError
from segr1_jax.eval.figures import FIGURES, ScoredSample
from segr1_jax.eval.pixels import PixelScores, no_mask, score_pixels
from segr1_jax.eval.predictions import QUARANTINED, SKIPPED, Prediction, read_map
from segr1_jax.eval.protocol import Counted
from segr1_jax.files import json_line, write_atomically
from segr1_jax.types import Example, ParseStatus

OK = ParseStatus.OK.value
SCORES = "scores.jsonl"


@dataclass(frozen=True)
class SetResult:
    """One set: figures, how many samples they are of, how many of these have no valid answer, and what could not be read, with why."""

    figures: dict[str, float]
    count: int
    invalid: int
    unreadable: dict[str, str]
    samples: list[ScoredSample]


def score_set(
    source: Source, counted: Sequence[Counted], folder: Path, kind: str, progress: Callable[[int], None] = lambda done: None
) -> SetResult:
    """Score predictions (masks below `folder`) on the examples of `source` that they are for, as a set of this `kind`.

    A sample that was skipped, that the sidecar failed on, or that cannot be read now, is listed and in no figure. A mask of another
    size than its image is a fault of the prediction: it counts as an invalid answer.
    """
    samples, unreadable = [], {}
    for done, item in enumerate(counted, start=1):
        prediction = item.prediction
        if prediction.status in (SKIPPED, QUARANTINED):
            unreadable[prediction.name] = prediction.reason or "the sidecar could not make its mask"
        else:
            try:
                samples.append(_scored(source[item.index], prediction, folder))
            except UserError as error:
                unreadable[prediction.name] = str(error)
        progress(done)
    invalid = sum(sample.status != OK for sample in samples)
    return SetResult(FIGURES[kind](samples), len(samples), invalid, unreadable, samples)


def _scored(example: Example, prediction: Prediction, folder: Path) -> ScoredSample:
    if example.mask is None:
        raise UserError(example.name, expected="a mask", got="none", remedy="add it")
    if prediction.mask is None:
        return ScoredSample(prediction.name, prediction.status, no_mask(example.mask))
    map_HW = read_map(folder / prediction.mask)
    if map_HW.shape != example.mask.shape:
        return ScoredSample(prediction.name, "wrong_size", no_mask(example.mask))
    return ScoredSample(prediction.name, prediction.status, score_pixels(map_HW, example.mask, example.ignore))


def write_scores(path: Path, samples: Sequence[ScoredSample]) -> None:
    """One JSON line per sample: its name, status, and every score but the curves."""
    write_atomically(path, "".join(json_line(_record(sample)) for sample in samples))


def _record(sample: ScoredSample) -> dict[str, Any]:
    scores = {f.name: getattr(sample.scores, f.name) for f in dataclasses.fields(PixelScores)}
    plain = {name: value for name, value in scores.items() if not isinstance(value, np.ndarray)}
    return {"name": sample.name, "status": sample.status, "iou": sample.scores.iou} | plain

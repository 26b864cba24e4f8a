"""Scores of predictions on their set: a pure function of files, for our answers and for others."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segr1_jax.common.files import json_line, write_atomically
from segr1_jax.data.sources import Source
from segr1_jax.errors import UserError
from segr1_jax.metrics.predictions import QUARANTINED, SKIPPED, read_map
from segr1_jax.metrics.sample_protocol import Counted
from segr1_jax.metrics.table_figures import MEASURES, Measure, ScoredSample
from segr1_jax.reward.resize import resize_map
from segr1_jax.types import ParseStatus

OK = ParseStatus.OK.value
SCORES = "scores.jsonl"
# Scoring a picture of 20 megapixels takes 2 GB.
MOST_THREADS = 8


@dataclass(frozen=True)
class SetResult:
    """Figures of one set.

    Beside them are the number of samples, of invalid answers and of predictions that were resized
    to their truth, and the unreadable samples with reasons.
    """

    figures: dict[str, float]
    count: int
    invalid: int
    unreadable: dict[str, str]
    samples: list[ScoredSample]
    resized: int = 0


def score_set(
    source: Source,
    counted: Sequence[Counted],
    folder: Path,
    kind: str,
    progress: Callable[[int], None] = lambda done: None,
) -> SetResult:
    """Score predictions (masks below `folder`) on their examples of `source`, a set of `kind`.

    Figures leave out a sample that was skipped, that the sidecar failed on, or that cannot be read
    now; it is listed. A prediction of another size than its truth is resized to it, and counted.
    """
    measure = MEASURES[kind]
    samples, unreadable = [], {}
    with ThreadPoolExecutor(min(MOST_THREADS, len(os.sched_getaffinity(0)))) as threads:
        scored = threads.map(lambda item: _scored(source, item, folder, measure), counted)
        for done, (item, result) in enumerate(zip(counted, scored, strict=True), start=1):
            if isinstance(result, ScoredSample):
                samples.append(result)
            else:
                unreadable[item.prediction.name] = result
            progress(done)
    invalid = sum(sample.status != OK for sample in samples)
    resized = sum(sample.resized for sample in samples)
    return SetResult(measure.figures(samples), len(samples), invalid, unreadable, samples, resized)


def _scored(source: Source, item: Counted, folder: Path, measure: Measure) -> ScoredSample | str:
    """Return the scores of one sample, or the reason why it has none."""
    prediction = item.prediction
    if prediction.status in (SKIPPED, QUARANTINED):
        return prediction.reason or "the sidecar could not make its mask"
    try:
        example = source[item.index]
        if example.mask is None:
            raise UserError(example.name, expected="a mask", got="none", remedy="add it")
        map_HW = None if prediction.mask is None else read_map(folder / prediction.mask)
    except UserError as error:
        return str(error)
    if map_HW is None:
        return ScoredSample(prediction.name, prediction.status, measure.of_none(example.mask))
    at_truth_HW = resize_map(map_HW, example.mask.shape)
    ignore_HW = example.ignore if item.leave_out else None
    scores = measure.of_map(at_truth_HW, example.mask, ignore_HW)
    resized = at_truth_HW is not map_HW
    return ScoredSample(prediction.name, prediction.status, scores, resized)


def write_scores(path: Path, samples: Sequence[ScoredSample]) -> None:
    """Write one JSON line per sample: name, status, and all scores but the curves."""
    write_atomically(path, "".join(json_line(_record(sample)) for sample in samples))


def _record(sample: ScoredSample) -> dict[str, Any]:
    scores = vars(sample.scores)
    plain = {name: value for name, value in scores.items() if not isinstance(value, np.ndarray)}
    return {"name": sample.name, "status": sample.status, "iou": sample.scores.iou} | plain

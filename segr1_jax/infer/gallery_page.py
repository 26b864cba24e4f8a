"""The page for an evaluated set: its table, the worst samples, and a spread of the others."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from segr1_jax.data.sources import Source
from segr1_jax.metrics.held_out_figures import standard_error
from segr1_jax.metrics.outcome import HOW_TO_READ, percent
from segr1_jax.metrics.predictions import Prediction, read_map
from segr1_jax.metrics.report_page import MOST_SAMPLES, write_report
from segr1_jax.metrics.sample_cards import ReportSample, ShownAnswer
from segr1_jax.metrics.sample_protocol import Counted
from segr1_jax.metrics.set_scores import SetResult
from segr1_jax.metrics.table_figures import ScoredSample
from segr1_jax.metrics.tables import Table
from segr1_jax.metrics.verdict import Figure, Verdict
from segr1_jax.reward.resize import HALF, resize_map, resize_mask
from segr1_jax.types import Example, SamPrompt

PAGE = "report.html"


def write_gallery(
    path: Path,
    folder: Path,
    source: Source,
    counted: Sequence[Counted],
    result: SetResult,
    table: Table,
) -> None:
    """Write the page to `path`; masks are in `folder`.

    If there are many samples, it shows the worst ones and as many spread over the rest.
    """
    scored = {sample.name: sample for sample in result.samples}
    readable = [item for item in counted if item.prediction.name in scored]
    ranked = sorted(readable, key=lambda item: scored[item.prediction.name].scores.iou)
    shown = _chosen(ranked)
    note = (
        f"{len(shown)} of {len(ranked)} samples: the worst, and others of every quality."
        if len(shown) < len(ranked)
        else ""
    )
    page = Table("Figures", table.headings, table.rows, "\n".join(filter(None, (table.note, note))))
    verdict = _verdict(table.title, result)
    samples = _samples(folder, source, shown, scored)
    write_report(path, table.title, [page], samples=samples, verdict=verdict)


def _verdict(title: str, result: SetResult) -> Verdict | None:
    """Return the head of the page, None for a set without a readable sample."""
    if not result.samples:
        return None
    iou_N = np.array([sample.scores.iou for sample in result.samples])
    error = standard_error(iou_N)
    note = f"± {error:.3f}" if math.isfinite(error) else ""
    valid = 1 - result.invalid / result.count
    return Verdict(
        f"The answers have a mean IoU of {iou_N.mean():.3f} on {len(iou_N)} samples of {title}.",
        [Figure("mean IoU", f"{iou_N.mean():.3f}", note), Figure("valid answers", percent(valid))],
        [HOW_TO_READ],
    )


def _chosen(ranked: list[Counted]) -> list[Counted]:
    if len(ranked) <= MOST_SAMPLES:
        return ranked
    worst, rest = ranked[: MOST_SAMPLES // 2], ranked[MOST_SAMPLES // 2 :]
    return worst + [
        rest[index]
        for index in np.linspace(0, len(rest) - 1, MOST_SAMPLES - len(worst)).astype(int)
    ]


def _samples(
    folder: Path, source: Source, shown: Sequence[Counted], scored: dict[str, ScoredSample]
) -> Iterator[ReportSample]:
    for item in shown:
        example, sample = source[item.index], scored[item.prediction.name]
        shown = sample_of(folder, item.prediction, example)
        truth_HW = resize_mask(example.mask, example.image.shape[:2])
        answer = dataclasses.replace(shown.answer, status=sample.status, iou=sample.scores.iou)
        yield dataclasses.replace(shown, answer=answer, truth=truth_HW)


def sample_of(folder: Path, prediction: Prediction, example: Example) -> ReportSample:
    """Return a prediction as the page shows it, without ground truth and score."""
    mask_HW = None
    if prediction.mask is not None:
        mask_HW = resize_map(read_map(folder / prediction.mask), example.image.shape[:2]) > HALF
    prompts = tuple(map(_prompt, prediction.prompts))
    answer = ShownAnswer(prediction.answer or "", prediction.status, None, mask_HW, prompts)
    return ReportSample(prediction.name, prediction.instruction, answer, example.image)


def _prompt(record: dict) -> SamPrompt:
    box = None if record["box"] is None else np.array(record["box"], np.float32)
    return SamPrompt(
        box,
        np.array(record["points"], np.float32).reshape(-1, 2),
        np.array(record["labels"], np.int32),
    )

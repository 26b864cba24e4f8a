"""`segr1 predict`: masks, overlays and lines of text for images."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from segr1_jax.answer import sam_prompts
from segr1_jax.apply.answering import Responder, as_prediction
from segr1_jax.apply.evaluate import responding
from segr1_jax.apply.resumable import IDENTITY
from segr1_jax.data.entries import Entry, FileSource
from segr1_jax.data.pipeline import Sample, Unreadable, walk
from segr1_jax.data.sources import Source, open_source
from segr1_jax.errors import UserError
from segr1_jax.eval.predictions import (
    LINES,
    MASKS,
    SKIPPED,
    Prediction,
    mask_name,
    read_predictions,
)
from segr1_jax.eval.report import MOST_SAMPLES, ReportSample, write_report
from segr1_jax.files import write_atomically
from segr1_jax.judge import AnswerText, Judged
from segr1_jax.train.config import RunConfig
from segr1_jax.train.progress import Progress
from segr1_jax.viz import overlay, png

OVERLAYS, PAGE = "overlays", "report.html"


def run_predict(
    config: RunConfig,
    source: Path,
    out: Path,
    *,
    images: Sequence[str] = (),
    instruction: str | None = None,
    count: int = 4,
) -> list[Prediction]:
    """Write masks/NAME.png (0 and 255, native size), overlays/NAME.png, predictions.jsonl and report.html below `out`.

    `images` are files, folders (all pictures below them) and patterns; NAME is the path below the folder that all share, without its
    suffix. Without `images` the first `count` held-out examples are used. An answer that does not parse has no mask; a file that cannot
    be read is listed with its reason. The page shows the first MOST_SAMPLES. What an earlier call left in `out` goes.
    """
    found = _files(images, instruction) if images else open_source(config.eval_data)
    total = len(found) if images else min(count, len(found))
    out.mkdir(parents=True, exist_ok=True)
    if (out / IDENTITY).is_file():
        raise UserError(
            str(out),
            expected="no folder of an evaluation",
            got=IDENTITY,
            remedy="choose another with --out",
        )
    predictions: list[Prediction] = []
    with responding(config, source) as responder, Progress("predict", total) as progress:
        _remove_earlier(out)
        samples = _answered(responder, found, total, out, predictions, progress)
        write_report(
            out / PAGE,
            "Predictions",
            [],
            {},
            (sample for number, sample in enumerate(samples) if number < MOST_SAMPLES),
        )
    write_atomically(out / LINES, "".join(prediction.line() for prediction in predictions))
    return predictions


def _remove_earlier(out: Path) -> None:
    """Delete the pictures that the lines in `out` tell of: a mask that stays would pass for one of this call."""
    if (out / LINES).is_file():
        for prediction in read_predictions(out / LINES):
            (out / mask_name(prediction.name)).unlink(missing_ok=True)
            _overlay_path(out, prediction.name).unlink(missing_ok=True)
        (out / LINES).unlink()


def _overlay_path(out: Path, name: str) -> Path:
    return out / OVERLAYS / Path(mask_name(name)).relative_to(MASKS)


def _answered(
    responder: Responder,
    source: Source,
    total: int,
    out: Path,
    predictions: list[Prediction],
    progress: Progress,
) -> Iterator[ReportSample]:
    """Answer, write and note every example; what the page shows of it comes out."""
    answerer = responder.answerer()
    for samples in walk(
        source, responder.opened.engine.builder.build, range(total), batch=responder.rows
    ):
        answered = iter(
            responder.answer(
                answerer, [(s.example, s.prompt) for s in samples if isinstance(s, Sample)]
            )
        )
        for sample in samples:
            if isinstance(sample, Unreadable):
                predictions.append(Prediction(sample.name, SKIPPED, reason=sample.reason))
                yield ReportSample(
                    sample.name, None, "", SKIPPED, None, None, None, None, reason=sample.reason
                )
                continue
            item, judged = next(answered)
            predictions.append(as_prediction(item, judged, out, None))
            yield _shown(item, judged, predictions[-1], out)
        progress.update(len(predictions), {})


def _shown(item: AnswerText, judged: Judged, prediction: Prediction, out: Path) -> ReportSample:
    example = item.example
    prompts = sam_prompts(judged.answer, example.frame) if judged.answer else ()
    path = _overlay_path(out, example.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, png(overlay(example.image, judged.mask, prompts)))
    return ReportSample(
        example.name,
        example.instruction,
        item.text,
        prediction.status,
        None,
        example.image,
        judged.mask,
        None,
        prompts,
    )


def _files(images: Sequence[str], instruction: str | None) -> FileSource:
    """The pictures that files, folders and patterns name, each once. Raises UserError for one that names nothing."""
    paths = list(dict.fromkeys(path for named in images for path in _named(named)))
    shared = Path(os.path.commonpath([path.parent.absolute() for path in paths]))
    names = [path.absolute().relative_to(shared).with_suffix("").as_posix() for path in paths]
    counts = Counter(names)
    if max(counts.values()) > 1:  # cat.jpg and cat.png
        names = [f"{name}{path.suffix}" for name, path in zip(names, paths, strict=True)]
    return FileSource(
        [Entry(name, path, None, instruction) for name, path in zip(names, paths, strict=True)]
    )


def _named(named: str) -> list[Path]:
    path = Path(named)
    if path.is_dir():
        suffixes = Image.registered_extensions()
        found = sorted(
            each for each in path.rglob("*") if each.suffix.lower() in suffixes and each.is_file()
        )
    elif path.is_file():
        found = [path]
    else:
        found = sorted(
            Path(match) for match in glob.glob(named, recursive=True) if Path(match).is_file()
        )
    if not found:
        got = f"no picture in {named}" if path.is_dir() else f"{named} (missing)"
        raise UserError(
            "--images",
            expected="files, folders or patterns",
            got=got,
            remedy="give paths from the working directory",
        )
    return found

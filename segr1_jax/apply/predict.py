"""`segr1 predict`: masks, overlays and lines of text for images."""

import functools
import glob
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from segr1_jax.answer import sam_prompts
from segr1_jax.apply.answering import answer_set
from segr1_jax.apply.evaluate import responding
from segr1_jax.apply.gallery import sample_of
from segr1_jax.apply.identity import identity
from segr1_jax.apply.resumable import IDENTITY, remove_lines
from segr1_jax.data.entries import Entry, FileSource
from segr1_jax.data.sources import Source, first, open_source
from segr1_jax.errors import UserError
from segr1_jax.eval.predictions import (
    LINES,
    MASKS,
    SKIPPED,
    Prediction,
    mask_name,
    read_predictions,
    remove_mask,
)
from segr1_jax.eval.report import MOST_SAMPLES, ReportSample, write_report
from segr1_jax.files import write_atomically
from segr1_jax.judge import AnswerText, Judged
from segr1_jax.train.config import RunConfig
from segr1_jax.train.progress import Progress
from segr1_jax.train.runtime import is_first, wait_for_all
from segr1_jax.viz import jpeg, overlay, reduced

OVERLAY_FOLDER, PAGE = "overlays", "report.html"
# Longer side in pixels of an overlay; 0 is the image's own.
OVERLAYS = {"none": None, "small": 1024, "full": 0}
COMMAND = "predict"


def run_predict(
    config: RunConfig,
    source: Path,
    out: Path,
    *,
    images: Sequence[str] = (),
    instruction: str | None = None,
    count: int = 4,
    overlays: str = "small",
) -> list[Prediction]:
    """Write masks/NAME.png (0 and 255, native size), overlays/NAME.jpg, predictions.jsonl and report.html below `out`.

    `images` are files, folders (all pictures below them) and patterns; NAME is the path below the folder that all share, without its
    suffix. Without `images` the first `count` held-out examples are used. An answer that does not parse has no mask; a file that cannot
    be read is listed with its reason. The page shows the first MOST_SAMPLES.

    Lines are written as the answers come, and the same call goes on where it was interrupted; what another call left in `out` goes.

    Raises:
        UserError: no picture to be found, or `out` holds an evaluation.
    """
    found = _files(images, instruction) if images else first(open_source(config.eval_data), count)
    _require_own(out)
    with responding(config, source) as responder, Progress(COMMAND, len(found)) as progress:
        opened = responder.opened
        mine = identity(
            opened.engine.config, opened.rollout_weights, config.eval_data, _marks(found)
        )
        mine |= {"command": COMMAND, "instruction": instruction, "overlays": overlays}
        if is_first():
            _remove_others(out, mine)
        wait_for_all("earlier predictions removed")
        predictions = answer_set(
            responder,
            found,
            out,
            mine,
            lambda done, total: progress.update(done, {}),
            functools.partial(_write_overlay, out, OVERLAYS[overlays]),
        )
    if is_first():
        write_report(out / PAGE, "Predictions", [], {}, _shown(out, found, predictions))
    return predictions


def _require_own(out: Path) -> None:
    if (out / IDENTITY).is_file() and _owner(out).get("command") != COMMAND:
        raise UserError(
            str(out),
            expected="no folder of an evaluation",
            got=IDENTITY,
            remedy="choose another with --out",
        )


def _owner(out: Path) -> dict[str, Any]:
    try:
        return json.loads((out / IDENTITY).read_text())
    except (OSError, ValueError):
        return {}


def _marks(source: Source) -> list[str]:
    """The names of the samples, with size and time of change where they are files."""
    if not isinstance(source, FileSource):
        return list(source.names)
    stats = [entry.image.stat() for entry in source.entries]
    return [
        f"{name} {stat.st_size} {stat.st_mtime_ns}"
        for name, stat in zip(source.names, stats, strict=True)
    ]


def _remove_others(out: Path, mine: dict[str, Any]) -> None:
    """Delete what another call left: a mask that stays would pass for one of this call."""
    out.mkdir(parents=True, exist_ok=True)
    owner = _owner(out)
    # As resumable.py writes and compares it.
    if owner == json.loads(json.dumps(mine)):
        return
    if owner:
        # Pictures of a batch that was cut short have no line: the folders go as a whole.
        for folder in (MASKS, OVERLAY_FOLDER):
            shutil.rmtree(out / folder, ignore_errors=True)
    elif (out / LINES).is_file():
        # Of a version without an identity; other pictures may lie here too.
        for prediction in read_predictions(out / LINES):
            remove_mask(out, prediction.name)
    remove_lines(out)


def _overlay_path(out: Path, name: str) -> Path:
    return out / OVERLAY_FOLDER / Path(mask_name(name)).relative_to(MASKS).with_suffix(".jpg")


def _write_overlay(out: Path, side: int | None, item: AnswerText, judged: Judged) -> Path | None:
    if side is None:
        return None
    example = item.example
    prompts = sam_prompts(judged.answer, example.frame) if judged.answer else ()
    side = side or max(example.image.shape)
    path = _overlay_path(out, example.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = overlay(*reduced(example.image, judged.mask, prompts, side))
    write_atomically(path, jpeg(shown), durable=False)
    return path


def _shown(out: Path, source: Source, predictions: Sequence[Prediction]) -> Iterator[ReportSample]:
    for index, prediction in enumerate(predictions[:MOST_SAMPLES]):
        if prediction.status == SKIPPED:
            yield ReportSample(
                prediction.name, None, "", SKIPPED, None, None, None, None, reason=prediction.reason
            )
        else:
            yield sample_of(out, prediction, source[index])


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

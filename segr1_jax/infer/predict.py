"""`segr1 predict`: masks, overlays and lines of text for images."""

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from segr1_jax.answer.grammar import sam_prompts
from segr1_jax.common.drawing import jpeg, overlay, reduced
from segr1_jax.common.files import write_atomically
from segr1_jax.config.schema import RunConfig
from segr1_jax.data.config import DataConfig
from segr1_jax.data.file_entries import FileSource
from segr1_jax.data.pictures import Picture, picture_key
from segr1_jax.data.sources import First, Source, first, open_source
from segr1_jax.errors import UserError
from segr1_jax.infer.gallery_page import sample_of
from segr1_jax.infer.identity import identity
from segr1_jax.infer.image_paths import named_pictures
from segr1_jax.infer.responder import answer_set, responding
from segr1_jax.infer.resumable_lines import IDENTITY, remove_lines
from segr1_jax.metrics.predictions import (
    LINES,
    MASKS,
    Prediction,
    mask_name,
    read_predictions,
    remove_mask,
)
from segr1_jax.metrics.report_page import MOST_SAMPLES, write_report
from segr1_jax.metrics.sample_cards import ReportSample, ShownAnswer
from segr1_jax.reward.judging import AnswerText, Judged
from segr1_jax.runtime.processes import is_first, wait_for_all
from segr1_jax.runtime.progress import Progress

HELD_OUT = 4  # examples without `images` and `count`
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
    count: int | None = None,
    overlays: str = "small",
) -> list[Prediction]:
    """Predict masks of images and write them below `out`.

    Write masks/NAME.png (0 and 255, native size), overlays/NAME.jpg, predictions.jsonl and
    report.html, which shows the first MOST_SAMPLES.

    `images` are files, folders (all pictures below them) and patterns; NAME is the path below the
    folder that all share, without its suffix. Without `images` held-out examples are used. `count`
    is the number of samples, by default all images or HELD_OUT examples. An answer that does not
    parse has no mask; a file that cannot be read is listed with its reason.

    Lines are written as the answers come. The same call continues where it was interrupted; files
    of another call in `out` are deleted.

    Raises:
        UserError: no picture to be found, or `out` holds an evaluation.
    """
    if images:
        every = named_pictures(images, instruction, but=(out / MASKS, out / OVERLAY_FOLDER))
    else:
        every = open_source(config.eval_data)
    found = first(every, count or (len(every) if images else HELD_OUT))
    call = {"command": COMMAND, "images": _marks(found), "overlays": overlays}
    _require_own(out)
    with responding(config, source) as responder, Progress(COMMAND, len(found)) as progress:
        data = DataConfig() if images else config.eval_data
        mine = identity(responder.opened, data, found.names) | call
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
        write_report(out / PAGE, "Predictions", samples=_shown(out, found, predictions))
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


def _marks(source: Source) -> list[list[Any]]:
    """Return the fields that identify samples: the name, and for those of files and rows more.

    They are the path or fingerprint of the image, the sentence, and size and mtime of a file. A
    hash of the contents would read tens of gigabytes before the first answer.
    """
    if isinstance(source, First):
        return _marks(source.source)[: source.count]
    if not isinstance(source, FileSource):
        return [[name] for name in source.names]
    return [
        [entry.name, picture_key(entry.image), entry.instruction, *_size_and_time(entry.image)]
        for entry in source.entries
    ]


def _size_and_time(image: Picture) -> tuple[int, ...]:
    if not isinstance(image, Path):
        return ()
    try:
        found = image.stat()
    except OSError:
        return -1, -1  # listed with the reason when it is read
    return found.st_size, found.st_mtime_ns


def _remove_others(out: Path, mine: dict[str, Any]) -> None:
    """Delete the files of another call, whose masks would pass for those of this call.

    Only files that the other call wrote are deleted, because the folder may contain others. Their
    names come from its identity, because an interrupted batch leaves files without lines.
    """
    owner = _owner(out)
    # As resumable_lines.py writes and compares it.
    if owner == json.loads(json.dumps(mine)):
        return
    named = owner.get("images")
    names = [name for name, *_ in named] if named else _names_in_lines(out)
    # Delete the lines first and the identity last. If this process is killed in between, the other
    # call finds no lines without masks, and this call can still tell which files to delete.
    remove_lines(out)
    for name in names:
        remove_mask(out, name)
        _overlay_path(out, name).unlink(missing_ok=True)
    (out / PAGE).unlink(missing_ok=True)
    (out / IDENTITY).unlink(missing_ok=True)


def _names_in_lines(out: Path) -> list[str]:
    """Return the names in lines of a version that wrote no identities."""
    lines = out / LINES
    return [prediction.name for prediction in read_predictions(lines)] if lines.is_file() else []


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
        name, status, reason = prediction.name, prediction.status, prediction.reason
        if reason is None:
            try:
                yield sample_of(out, prediction, source[index])
                continue
            except UserError as error:  # a file that went, or changed, after its answer
                reason = str(error)
        yield ReportSample(name, None, ShownAnswer("", status), reason=reason)

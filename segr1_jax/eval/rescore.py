"""`segr1 eval --predictions`: score given masks or answers with the code that scores ours."""

from collections.abc import Callable
from pathlib import Path

from segr1_jax.config.checks import MERGED_PATCH
from segr1_jax.config.schema import RunConfig
from segr1_jax.data.json_lines import read_records
from segr1_jax.data.sources import Source, open_source
from segr1_jax.errors import UserError
from segr1_jax.eval.evaluate import kind_of, score_folder, set_table, set_title
from segr1_jax.eval.given_masks import given_masks, require_own_masks
from segr1_jax.infer.responder import as_prediction
from segr1_jax.metrics.predictions import (
    LINES,
    SKIPPED,
    Prediction,
    are_predictions,
    read_predictions,
)
from segr1_jax.metrics.set_scores import OK
from segr1_jax.metrics.tables import markdown
from segr1_jax.prompt.patches import model_frame
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.judging import AnswerText, collect, submit
from segr1_jax.runtime.progress import CountedProgress
from segr1_jax.types import Example, Frame

MISSING = "missing"
SHOWN = 5


def run_rescore(config: RunConfig, given: Path, out: Path, protocol: str) -> str:
    """Score `given` on config.eval_data and return the table.

    `given` is a folder of gray pictures named as the samples (masks, or for foreground sets soft
    maps), JSON lines {"name", "answer"} whose answers are scored through the sidecar, or the folder
    or lines of an earlier `segr1 eval`. A sample without a prediction counts as an invalid answer.
    The note says how many there are, and which predictions belong to no sample.

    Raises:
        UserError: `given` is none of these, or has nothing for any sample.
    """
    source = open_source(config.eval_data)
    out.mkdir(parents=True, exist_ok=True)
    title, kind = set_title(config.eval_data), kind_of(config.eval_data, source)
    with CountedProgress() as progress:
        report = lambda done: progress.update(f"{title}: answers", done, len(source))  # noqa: E731
        found, folder = _found(config, given, source, out, report)
        missing = [name for name in source.names if name not in found]
        surplus = sorted(set(found) - set(source.names))
        if len(missing) == len(source):
            got, remedy = (
                _some(surplus) or "none at all",
                "name predictions as the samples, or correct eval_data",
            )
            raise UserError(
                str(given),
                expected=f"predictions for samples such as {source.names[0]}",
                got=got,
                remedy=remedy,
            )
        predictions = [found.get(name, Prediction(name, MISSING)) for name in source.names]
        result = score_folder(predictions, source, folder, kind, title, protocol, progress, out=out)
    notes = [f"{len(missing)} samples have no prediction: {_some(missing)}"] if missing else []
    notes += (
        [f"{len(surplus)} predictions belong to no sample: {_some(surplus)}"] if surplus else []
    )
    return markdown([set_table(title, kind, result)]) + "".join(f"\n{note}\n" for note in notes)


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")


def _found(
    config: RunConfig, given: Path, source: Source, out: Path, report: Callable[[int], None]
) -> tuple[dict[str, Prediction], Path]:
    """Return predictions by name, those of no sample included, and the folder of their masks."""
    finished = given / LINES if given.is_dir() else given
    if are_predictions(finished):
        predictions = list(read_predictions(finished))
        require_own_masks(predictions, finished)
        return {each.name: each for each in predictions}, finished.parent
    if given.is_dir():
        masks = given_masks(given, source)
        return {
            name: Prediction(name, OK, mask=str(path.relative_to(given)))
            for name, path in masks.items()
        }, given
    return _answers(config, given, source, out, report), out


def _answers(
    config: RunConfig, file: Path, source: Source, out: Path, report: Callable[[int], None]
) -> dict[str, Prediction]:
    if not file.is_file():
        raise UserError(
            "--predictions",
            expected="a folder of masks or JSON lines",
            got=f"{file} (missing)",
            remedy="correct it",
        )
    texts = {
        record["name"]: record["answer"]
        for _, record in read_records(file, paths=("name",), texts=("answer",))
    }
    found = {name: Prediction(name, OK) for name in texts}
    with RewardClient(config.reward.at_native_size()) as client:
        for index, name in enumerate(source.names):
            if name in texts:
                found[name] = _judged(config, client, source, index, texts[name], out)
            report(index + 1)
    return found


def _judged(
    config: RunConfig, client: RewardClient, source: Source, index: int, text: str, out: Path
) -> Prediction:
    try:
        example = source[index]
    except UserError as error:
        return Prediction(source.names[index], SKIPPED, reason=str(error))

    def frame_of(example: Example) -> Frame:
        return model_frame(example.frame, config.prompt, MERGED_PATCH, example.name)

    item = AnswerText(example, text)
    pending = submit(client, [item], frame_of, config.prompt.task, want_masks=True)
    (judged,) = collect(client, pending, None)
    return as_prediction(item, judged, out, None)

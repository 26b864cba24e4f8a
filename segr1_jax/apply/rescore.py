"""`segr1 eval --predictions`: somebody else's masks or answers, scored by the code that scores ours."""

from collections.abc import Callable
from pathlib import Path

from segr1_jax.answer import sam_prompts
from segr1_jax.apply.evaluate import kind_of, score_folder, set_table, set_title
from segr1_jax.data.entries import pictures_by_stem
from segr1_jax.data.records import read_records
from segr1_jax.data.sources import Source, open_source
from segr1_jax.errors import UserError
from segr1_jax.eval.predictions import Prediction, as_records, write_mask
from segr1_jax.eval.scoring import OK
from segr1_jax.eval.table import markdown
from segr1_jax.judge import AnswerText, collect, submit
from segr1_jax.reward.client import RewardClient
from segr1_jax.train.config import RunConfig
from segr1_jax.train.progress import CountedProgress
from segr1_jax.types import Example, Frame

MISSING = "missing"
SHOWN = 5


def run_rescore(config: RunConfig, given: Path, out: Path, protocol: str) -> str:
    """Score `given` on config.eval_data: a folder of grey pictures named as the samples (a mask, or for foreground sets a soft map), or
    JSON lines {"name", "answer"} whose answers go through the sidecar. Returns the table.

    A sample without a prediction counts as an invalid answer; predictions that belong to no sample are named in the note.
    """
    source = open_source(config.eval_data)
    out.mkdir(parents=True, exist_ok=True)
    title = set_title(config.eval_data)
    with CountedProgress() as progress:
        heard = lambda done: progress.update(f"{title}: answers", done, len(source))  # noqa: E731
        predictions, surplus = (_masks if given.is_dir() else _answers)(config, given, source, out, heard)
        folder = given if given.is_dir() else out
        result = score_folder(predictions, source, folder, kind_of(config.eval_data, source), title, protocol, progress, out=out)
    table = set_table(title, kind_of(config.eval_data, source), result)
    named = ", ".join(surplus[:SHOWN]) + (" ..." if len(surplus) > SHOWN else "")
    note = f"\n{len(surplus)} predictions belong to no sample: {named}\n" if surplus else ""
    return markdown([table]) + note


def _masks(config: RunConfig, folder: Path, source: Source, out: Path, heard: Callable[[int], None]) -> tuple[list[Prediction], list[str]]:
    pictures = pictures_by_stem("--predictions", folder) if not any(folder.glob("*/*.png")) else _nested(folder)
    predictions = [
        Prediction(name, OK, mask=str(pictures[name].relative_to(folder))) if name in pictures else Prediction(name, MISSING)
        for name in source.names
    ]
    return predictions, sorted(set(pictures) - set(source.names))


def _nested(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.png"))}


def _answers(config: RunConfig, file: Path, source: Source, out: Path, heard: Callable[[int], None]) -> tuple[list[Prediction], list[str]]:
    if not file.is_file():
        raise UserError("--predictions", expected="a folder of masks or JSON lines", got=f"{file} (missing)", remedy="correct it")
    given = {record["name"]: record["answer"] for _, record in read_records(file, paths=("name",), texts=("answer",))}
    predictions = []
    with RewardClient(config.reward) as client:
        for index, name in enumerate(source.names):
            predictions.append(_judged(config, client, source, index, given[name], out) if name in given else Prediction(name, MISSING))
            heard(index + 1)
    return predictions, sorted(set(given) - set(source.names))


def _judged(config: RunConfig, client: RewardClient, source: Source, index: int, text: str, out: Path) -> Prediction:
    try:
        example = source[index]
    except UserError as error:
        return Prediction(source.names[index], "skipped", reason=str(error))
    side = config.prompt.frame

    def frame_of(_: Example) -> Frame:
        return Frame(side, side) if side else example.frame

    pending = submit(client, [AnswerText(example, text)], frame_of, config.prompt.task, want_masks=True)
    (judged,) = collect(client, pending, config.reward.weights)
    mask = None if judged.mask is None else write_mask(out, example.name, judged.mask)
    prompts = as_records(sam_prompts(judged.answer, example.frame)) if judged.answer else ()
    return Prediction(example.name, judged.reward.parse.value, None, example.instruction, text, mask, prompts)

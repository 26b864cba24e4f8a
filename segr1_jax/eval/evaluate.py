"""`segr1 eval`: evaluate a policy on one set."""

from pathlib import Path

from segr1_jax.config.schema import RunConfig
from segr1_jax.data.config import DataConfig
from segr1_jax.data.sets.registry import JOIN, published_set
from segr1_jax.data.sources import Source, open_source
from segr1_jax.errors import UserError
from segr1_jax.infer.gallery_page import PAGE, write_gallery
from segr1_jax.infer.identity import identity
from segr1_jax.infer.responder import Responder, answer_set, responding
from segr1_jax.metrics.predictions import Prediction
from segr1_jax.metrics.sample_protocol import PROTOCOLS
from segr1_jax.metrics.set_scores import SCORES, SetResult, score_set, write_scores
from segr1_jax.metrics.tables import Table, figures_table, markdown
from segr1_jax.runtime.processes import is_first
from segr1_jax.runtime.progress import CountedProgress

COLUMNS = {
    "foreground": {
        "s_measure": "S",
        "weighted_f": "wF",
        "adaptive_f": "adpF",
        "mean_f": "meanF",
        "max_f": "maxF",
        "adaptive_e": "adpE",
        "mean_e": "meanE",
        "max_e": "maxE",
        "mae": "MAE",
        "iou": "IoU",
    },
    "referring": {"ciou": "cIoU", "giou": "gIoU"},
    "reasoning": {"giou": "gIoU", "ciou": "cIoU"},
}


def run_eval(config: RunConfig, source: Path, out: Path, protocol: str) -> str:
    """Answer and score config.eval_data into `out` and return the table.

    `out` gets the predictions, their scores and report.html.
    """
    held_out = open_source(config.eval_data)
    with responding(config, source) as responder, CountedProgress() as progress:
        result = evaluate_set(responder, config.eval_data, held_out, out, protocol, progress)
    if result is None:
        return ""
    kind = kind_of(config.eval_data, held_out)
    return markdown([set_table(set_title(config.eval_data), kind, result)])


def evaluate_set(
    responder: Responder,
    data: DataConfig,
    source: Source,
    folder: Path,
    protocol: str,
    progress: CountedProgress,
) -> SetResult | None:
    """Answer and score one set into `folder`; only the first process scores and has the result."""
    title = set_title(data)
    mine = identity(responder.opened, data, source.names)
    predictions = answer_set(
        responder,
        source,
        folder,
        mine,
        lambda done, total: progress.update(f"{title}: answered", done, total),
    )
    return (
        score_folder(predictions, source, folder, kind_of(data, source), title, protocol, progress)
        if is_first()
        else None
    )


def score_folder(
    predictions: list[Prediction],
    source: Source,
    folder: Path,
    kind: str,
    title: str,
    protocol: str,
    progress: CountedProgress,
    out: Path | None = None,
) -> SetResult:
    """Score predictions whose masks are in `folder`; write scores and page to `out` (or there)."""
    out, chosen = out or folder, PROTOCOLS[protocol](predictions, kind)
    result = score_set(
        source,
        chosen,
        folder,
        kind,
        lambda done: progress.update(f"{title}: scored", done, len(chosen)),
    )
    write_scores(out / SCORES, result.samples)
    write_gallery(out / PAGE, folder, source, chosen, result, set_table(title, kind, result))
    return result


def kind_of(data: DataConfig, source: Source) -> str:
    """Return the kind of a set: as published; otherwise referring where samples have sentences."""
    if data.kind == "published":
        kinds = {published_set(name).kind for name in data.set.split(JOIN)}
        if len(kinds) > 1 or "answers" in kinds:
            raise UserError(
                "eval_data.set",
                expected="sets of one kind, with masks",
                got=data.set,
                remedy="evaluate them one by one",
            )
        return kinds.pop()
    sentences = (
        data.sentences
        if data.kind == "synthetic"
        else any(entry.instruction for entry in source.entries)
    )
    return "referring" if sentences else "foreground"


def set_title(data: DataConfig) -> str:
    """Return the name of a set in progress and reports."""
    if data.kind != "published":
        return data.kind
    return (
        f"{' and '.join(published_set(name).title for name in data.set.split(JOIN))} {data.split}"
    )


def set_table(title: str, kind: str, result: SetResult) -> Table:
    """Figures of one set, how many answers were valid, and what could not be read."""
    valid = {"format": 1 - result.invalid / result.count} if result.count else {}
    columns = {"format": "format", **COLUMNS[kind], "count": "samples"}
    notes = [f"Could not be read: {name}: {reason}" for name, reason in result.unreadable.items()]
    if result.resized:
        notes.append(f"{result.resized} predictions were resized to their truth.")
    return figures_table(
        title,
        {"these answers": valid | result.figures | {"count": result.count}},
        columns,
        "\n".join(notes),
    )

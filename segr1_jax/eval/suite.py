"""`segr1 eval --suite paper`: every table of the paper for one policy, beside published numbers."""

import dataclasses
import json
from pathlib import Path

from segr1_jax.common.files import write_atomically
from segr1_jax.config.schema import RunConfig
from segr1_jax.data.config import DataConfig
from segr1_jax.data.general_benchmarks import BENCHMARKS, read_benchmark
from segr1_jax.data.sets.registry import SETS
from segr1_jax.data.sources import open_source
from segr1_jax.errors import UserError
from segr1_jax.eval.evaluate import evaluate_set
from segr1_jax.eval.paper_tables import SuiteCell, SuiteTable, filled, suite_tables
from segr1_jax.infer.general_questions import ask_all
from segr1_jax.infer.identity import identity
from segr1_jax.infer.responder import Responder, responding
from segr1_jax.metrics.general_scores import SCORES, request
from segr1_jax.metrics.report_page import write_report
from segr1_jax.metrics.tables import markdown
from segr1_jax.runtime.processes import is_first
from segr1_jax.runtime.progress import CountedProgress

TITLES = {name: found.title for name, found in SETS.items()} | {
    name: benchmark.title for name, benchmark in BENCHMARKS.items()
}


def run_suite(config: RunConfig, source: Path, out: Path, protocol: str) -> str:
    """Answer and score every set below config.eval_data.root and return the tables.

    Each set gets a folder below `out`. Write tables.md, tables.json (all metrics, counts, versions
    and hashes) and tables.html. An absent set is shown as a dash, with the reason in the note.
    """
    root = Path(config.eval_data.root)
    if not config.eval_data.root or not root.is_dir():
        raise UserError(
            "eval_data.root",
            expected="the folder of all sets",
            got=repr(config.eval_data.root),
            remedy="run `segr1 data check ROOT` to see the expected layout",
        )
    ours: dict[tuple[str, str], SuiteCell] = {}
    with responding(config, source) as responder, CountedProgress() as progress:
        for table in suite_tables():
            for name, split in table.sets:
                folder = out / name / split
                measure = _benchmark if name in BENCHMARKS else _set
                ours[name, split] = measure(
                    responder, root, name, split, folder, protocol, progress
                )
    if all(cell.absent for cell in ours.values()):
        raise UserError(
            "eval_data.root",
            expected="the folder of all sets",
            got=f"{root}, which contains none of the sets",
            remedy="run `segr1 data check ROOT` to see what is missing",
        )
    tables = [filled(table, ours, TITLES) for table in suite_tables()]
    if not is_first():
        return ""
    about = identity(responder.opened, DataConfig(), [])
    record = {
        "policy": about,
        "protocol": protocol,
        "tables": [_as_json(table, ours) for table in suite_tables()],
    }
    write_atomically(out / "tables.json", json.dumps(record, indent=1, sort_keys=True) + "\n")
    write_atomically(out / "tables.md", markdown(tables))
    write_report(out / "tables.html", "Seg-R1: the paper's tables", tables, {}, [])
    return markdown(tables)


def _set(
    responder: Responder,
    root: Path,
    name: str,
    split: str,
    folder: Path,
    protocol: str,
    progress: CountedProgress,
) -> SuiteCell:
    data = DataConfig(kind="published", root=str(root), set=name, split=split)
    try:
        source = open_source(data)
    except UserError as error:
        return SuiteCell({}, absent=_absent(root, error))
    result = evaluate_set(responder, data, source, folder, protocol, progress)
    if not result:
        return SuiteCell({})
    return SuiteCell(
        result.figures,
        result.count,
        result.invalid,
        result.unreadable,
        present=len(source),
        published=SETS[name].counts[split],
    )


def _benchmark(
    responder: Responder,
    root: Path,
    name: str,
    split: str,
    folder: Path,
    protocol: str,
    progress: CountedProgress,
) -> SuiteCell:
    try:
        questions = read_benchmark(root, name)
    except UserError as error:
        return SuiteCell({}, absent=_absent(root, error))
    asked = [repr((each.name, request(each), each.picture)) for each in questions]
    about = identity(responder.opened, DataConfig(), asked)

    def report(done: int, total: int) -> None:
        progress.update(f"{TITLES[name]}: asked", done, total)

    answered, faults = ask_all(responder, questions, folder, about, report)
    asked = [item for item in answered if item.text is not None]
    figures = {"score": SCORES[name](asked)} if asked else {}
    return SuiteCell(figures, len(asked), sum(item.choice is None for item in asked), faults)


def _absent(root: Path, error: UserError) -> str:
    """Return the reason why a set is missing, without the paths of this machine."""
    return str(error).replace(f"{root}/", "").replace(str(root), "the root of all sets")


def _as_json(table: SuiteTable, ours: dict[tuple[str, str], SuiteCell]) -> dict:
    cells = [
        {"set": name, "split": split} | dataclasses.asdict(ours[name, split])
        for name, split in table.sets
    ]
    return {
        "name": table.name,
        "title": table.title,
        "published": dict(table.published),
        "ours": cells,
    }

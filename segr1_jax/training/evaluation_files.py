"""Files that an evaluation during a run writes into the run directory."""

import dataclasses
import json
from typing import Any

import jax

from segr1_jax.common.files import write_atomically
from segr1_jax.errors import UserError
from segr1_jax.metrics.held_out_figures import EvalRow
from segr1_jax.runtime.mesh import max_over_processes
from segr1_jax.runtime.metrics_log import read_metrics
from segr1_jax.runtime.processes import is_first
from segr1_jax.runtime.run_directory import RunDir
from segr1_jax.training.evaluation import Evaluation
from segr1_jax.types import ParseStatus


def write_evaluation(directory: RunDir, step: int, result: Evaluation) -> None:
    """Write the rows of this process; the first process also writes the figures of all."""
    rows = "".join(json.dumps(_record(row), sort_keys=True) + "\n" for row in result.rows)
    file = directory.eval / f"step_{step:06d}.rows_{jax.process_index()}.jsonl"
    write_atomically(file, rows)
    if is_first():
        figures = json.dumps(result.figures, sort_keys=True) + "\n"
        write_atomically(directory.eval / f"step_{step:06d}.json", figures)


def _record(row: EvalRow) -> dict[str, Any]:
    record = dataclasses.asdict(row) | {"parse": row.parse.value}
    return record if row.own else {key: value for key, value in record.items() if key != "own"}


def evaluation_figures(directory: RunDir, step: int) -> dict[str, float] | None:
    """Return the figures of an evaluation of this run, or None where there is none."""
    file = directory.eval / f"step_{step:06d}.json"
    return json.loads(file.read_text()) if file.is_file() else None


def stored_rows(directory: RunDir, step: int) -> list[EvalRow]:
    """Return the rows that all processes wrote of an evaluation, in the order of their examples.

    Where processes do not share the run directory, those of this process's host alone.

    Raises:
        UserError: a file is damaged.
    """
    rows: dict[int, EvalRow] = {}
    for file in sorted(directory.eval.glob(f"step_{step:06d}.rows_*.jsonl")):
        try:
            found = [_row(json.loads(line)) for line in file.read_text().splitlines()]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                str(file),
                expected="rows of an evaluation, one JSON object per line",
                got=str(error),
                remedy="delete the file; the report then lacks its samples",
            ) from error
        rows |= {row.example_id: row for row in found}
    return [rows[example] for example in sorted(rows)]


def _row(record: dict[str, Any]) -> EvalRow:
    return EvalRow(**record | {"parse": ParseStatus(record["parse"])})


def was_evaluated(directory: RunDir, step: int) -> bool:
    """Return True, in every process, where metrics.jsonl has an evaluation of this step."""
    lines = read_metrics(directory) if is_first() else []
    found = any(line["step"] == step and "eval/iou" in line for line in lines)
    return bool(max_over_processes(int(found)))

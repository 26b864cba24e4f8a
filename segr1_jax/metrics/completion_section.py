"""The section of the report page that shows training completions with their rewards.

Texts and names are untrusted: they are escaped, and the section has no script.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from html import escape
from itertools import groupby
from typing import Any

import numpy as np

# Records that the page shows, of steps spread over the run: about 5 MB.
MOST_RECORDS = 3200
STEP = "step"
# Fields that are shown in words, and those that are not shown. Every other one has a column.
WORDS = ("name", "instruction", "text", "parse")
HIDDEN = (STEP, "position", "number")


def completion_section(read: Callable[[], Iterable[Mapping[str, Any]]]) -> str:
    """Return the HTML of the records of completions.jsonl, step by step; nothing where none is.

    `read` returns the records in the order of the file. It is called twice, so that only those
    shown are in memory. Each step is a closed block that the reader opens.
    """
    sizes = [(step, sum(1 for _ in records)) for step, records in _by_step(read())]
    if not sizes:
        return ""
    shown = _spread([step for step, _ in sizes], MOST_RECORDS // max(size for _, size in sizes))
    some = f"{len(shown)} of {len(sizes)} logged steps; " if len(shown) < len(sizes) else ""
    blocks = "".join(_block(step, list(found)) for step, found in _by_step(read()) if step in shown)
    return (
        f'<section class="completions"><h2>Training completions</h2><p class="note">{some}all '
        f"records are in completions.jsonl.</p>{blocks}</section>"
    )


def _by_step(
    records: Iterable[Mapping[str, Any]],
) -> Iterator[tuple[int, Iterator[Mapping[str, Any]]]]:
    return groupby(records, lambda record: record[STEP])


def _spread(steps: list[int], most: int) -> set[int]:
    """Return at most `most` steps, but at least the last, at equal distances."""
    chosen = np.linspace(len(steps) - 1, 0, max(1, min(most, len(steps)))).astype(int)
    return {steps[index] for index in chosen}


def _block(step: int, records: list[Mapping[str, Any]]) -> str:
    figures = [name for name in records[0] if name not in (*WORDS, *HIDDEN)]
    names = ("sample", *figures, "parse", "completion")
    headings = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = "".join(_row(record, figures) for record in records)
    return (
        f"<details><summary>step {step}: {len(records)} completions</summary>"
        f'<div class="wide" tabindex="0"><table><thead><tr>{headings}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _row(record: Mapping[str, Any], figures: Iterable[str]) -> str:
    sample = " ".join(filter(None, (record["name"], record["instruction"])))
    cells = (sample, *(_cell(record.get(name)) for name in figures), record["parse"])
    return (
        "<tr>"
        + "".join(f"<td><bdi>{escape(cell)}</bdi></td>" for cell in cells)
        + f'<td class="text" dir="auto">{escape(record["text"])}</td></tr>'
    )


def _cell(value: Any) -> str:
    return f"{value:.4g}" if type(value) is float else str(value)

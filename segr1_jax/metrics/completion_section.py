"""The section of the report page that shows training completions with their rewards.

Texts and names are untrusted: they are escaped, and the section has no script.
"""

from collections.abc import Iterable, Mapping
from html import escape
from itertools import groupby
from typing import Any

import numpy as np

# Steps that the page shows, spread over the run: with 16 completions each, a page of about 5 MB.
MOST_STEPS = 200
STEP = "step"
# Fields that are shown in words; every other one that is a number has a column.
WORDS = ("name", "instruction", "text", "parse", "finished", "valid")
HIDDEN = (STEP, "position", "number")


def completion_section(records: Iterable[Mapping[str, Any]]) -> str:
    """Return the HTML of records of completions.jsonl, step by step; nothing where none is.

    Each step is a closed block that the reader opens.
    """
    steps = [(step, list(found)) for step, found in groupby(records, lambda record: record[STEP])]
    if not steps:
        return ""
    shown = _spread(len(steps))
    some = f"{len(shown)} of {len(steps)} logged steps; " if len(shown) < len(steps) else ""
    blocks = "".join(_block(*steps[index]) for index in shown)
    return (
        f'<section class="completions"><h2>Training completions</h2><p class="note">{some}all '
        f"records are in completions.jsonl.</p>{blocks}</section>"
    )


def _spread(count: int) -> list[int]:
    return sorted(set(np.linspace(0, count - 1, min(count, MOST_STEPS)).astype(int).tolist()))


def _block(step: int, records: list[Mapping[str, Any]]) -> str:
    figures = [name for name in records[0] if name not in (*WORDS, *HIDDEN)]
    headings = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("sample", *figures))
    rows = "".join(_row(record, figures) for record in records)
    return (
        f"<details><summary>step {step}: {len(records)} completions</summary>"
        f'<div class="wide" tabindex="0"><table><thead><tr>{headings}<th scope="col">parse</th>'
        f'<th scope="col">completion</th></tr></thead><tbody>{rows}</tbody></table></div></details>'
    )


def _row(record: Mapping[str, Any], figures: Iterable[str]) -> str:
    sample = " ".join(filter(None, (record["name"], record["instruction"])))
    cells = (sample, *(_number(record[name]) for name in figures), record["parse"])
    return (
        "<tr>"
        + "".join(f"<td><bdi>{escape(cell)}</bdi></td>" for cell in cells)
        + f'<td class="text" dir="auto">{escape(record["text"])}</td></tr>'
    )


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)

"""The paper's tables: sets, columns and published numbers (assets/published.json) beside ours."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segr1_jax.metrics.tables import Table

PUBLISHED = Path(__file__).parent / "assets" / "published.json"
NOTHING = "-"


@dataclass(frozen=True)
class SuiteTable:
    """One table: its sets (set, split), its figures with their headings, and published rows."""

    name: str
    title: str
    sets: tuple[tuple[str, str], ...]
    columns: Mapping[str, str]
    digits: int
    percent: bool
    note: str
    published: Mapping[str, list[float]]


@dataclass(frozen=True)
class SuiteCell:
    """Our figures for one set, or why there are none.

    Attributes:
        count: number of samples that the figures cover.
        present: number of samples of the set found under the root.
        published: number of samples in the published set; None if not known.
    """

    figures: Mapping[str, float]
    count: int = 0
    invalid: int = 0
    unreadable: Mapping[str, str] | None = None
    absent: str = ""
    present: int = 0
    published: int | None = None

    @property
    def is_partial(self) -> bool:
        """True if the figures cover fewer samples than were published."""
        return self.published is not None and not self.absent and self.present < self.published


def suite_tables() -> list[SuiteTable]:
    """Read the tables in the order of the paper."""
    record = json.loads(PUBLISHED.read_text(encoding="utf-8"))["tables"]
    return [_table(name, table) for name, table in record.items()]


def _table(name: str, record: dict[str, Any]) -> SuiteTable:
    sets = tuple((found, split) for found, split in record["sets"])
    return SuiteTable(
        name,
        record["title"],
        sets,
        record["columns"],
        record["digits"],
        record.get("percent", False),
        record["note"],
        record["published"],
    )


def filled(
    table: SuiteTable, ours: Mapping[tuple[str, str], SuiteCell], titles: Mapping[str, str]
) -> Table:
    """Return the published rows and ours, with a note on each set.

    A note says whether the set is absent, and how many answers were invalid or unreadable.
    """
    headings = [
        "method",
        *(
            f"{titles[name]} {split} {heading}"
            for name, split in table.sets
            for heading in table.columns.values()
        ),
    ]
    rows = [
        [method, *(f"{value:.{table.digits}f}" for value in values)]
        for method, values in table.published.items()
    ]
    mine, partial = [], set()
    for key in table.sets:
        cells = [_cell(table, ours[key].figures.get(column)) for column in table.columns]
        if ours[key].is_partial:
            partial |= {1 + len(mine) + index for index in range(len(cells))}
            cells[0] += f" ({ours[key].present:,} of {ours[key].published:,})"
        mine += cells
    notes = [
        table.note,
        *(text for key in table.sets if (text := _remark(f"{titles[key[0]]} {key[1]}", ours[key]))),
    ]
    return Table(
        title=table.title,
        headings=headings,
        rows=[*rows, ["this policy", *mine]],
        note=" ".join(notes),
        result=len(rows),
        partial=frozenset(partial),
    )


def _cell(table: SuiteTable, value: float | None) -> str:
    return NOTHING if value is None else f"{value * (100 if table.percent else 1):.{table.digits}f}"


def _remark(name: str, cell: SuiteCell) -> str:
    if cell.absent:
        return f"{name}: {cell.absent}"
    unreadable = f", {len(cell.unreadable)} more could not be read" if cell.unreadable else ""
    return f"{name}: {cell.count} samples, {cell.invalid} without a valid answer{unreadable}."

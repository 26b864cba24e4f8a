"""Tables of figures as records of text, for markdown and for the report page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

COLUMNS = {
    "format": "format",
    "iou": "IoU",
    "s_measure": "S-measure",
    "mae": "MAE",
    "count": "images",
}


@dataclass(frozen=True)
class Table:
    """All cells are text; the first heading is that of the rows' names.

    Attributes:
        result: index of the row that the table is about; the report page prints it in bold.
        partial: columns of that row whose figures are of a part of their set, printed in gray.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    result: int | None = None
    partial: frozenset[int] = frozenset()


def figures_table(
    title: str,
    rows: Mapping[str, Mapping[str, float]],
    columns: Mapping[str, str] = COLUMNS,
    note: str = "",
    result: str | None = None,
) -> Table:
    """Make a table of one row per name and one column per figure.

    A cell is `mean ± standard error` where the row has `<figure>_se`, and a dash where the row
    lacks the figure. `columns` maps figure to heading; `result` names the row the table is about.
    """
    cells = [
        [name, *(_cell(figures, column) for column in columns)] for name, figures in rows.items()
    ]
    headings = ["answers", *columns.values()]
    about = None if result is None else list(rows).index(result)
    return Table(title, headings, cells, note, about)


def markdown_table(
    rows: Mapping[str, Mapping[str, float]], columns: Mapping[str, str] = COLUMNS
) -> str:
    """Return a table of figures as markdown, without title and note.

    Example:
        >>> print(markdown_table({"GRPO": {"iou": 0.5, "iou_se": 0.01}}, {"iou": "IoU"}))
        | answers | IoU |
        |---|---:|
        | GRPO | 0.500 ± 0.010 |
    """
    return _grid(figures_table("", rows, columns))


def markdown(tables: Sequence[Table]) -> str:
    """Return tables as markdown, each with its title and note."""
    return "\n".join(
        f"## {table.title}\n\n{_grid(table)}\n" + (f"\n{table.note}\n" if table.note else "")
        for table in tables
    )


def _grid(table: Table) -> str:
    lines = [table.headings, *table.rows]
    head, *body = (
        "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in lines
    )
    return "\n".join([head, "|---|" + "---:|" * (len(table.headings) - 1), *body])


def _cell(figures: Mapping[str, float], column: str) -> str:
    if column not in figures:
        return "-"
    if column == "count":
        return f"{figures[column]:.0f}"
    error = figures.get(f"{column}_se", math.nan)
    return f"{figures[column]:.3f}" + (f" ± {error:.3f}" if math.isfinite(error) else "")

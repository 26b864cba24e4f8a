"""Named rows of figures as one markdown table."""

import math
from collections.abc import Mapping

COLUMNS = {"format": "format", "iou": "IoU", "s_measure": "S-measure", "mae": "MAE", "count": "images"}


def markdown_table(rows: Mapping[str, Mapping[str, float]], columns: Mapping[str, str] = COLUMNS) -> str:
    """One line per row, one column per figure, `mean ± standard error` where the row has `<figure>_se`.

    `columns` maps figure to heading. A figure that a row lacks shows as a dash.

    Example:
        >>> print(markdown_table({"GRPO": {"iou": 0.5, "iou_se": 0.01}}, {"iou": "IoU"}))
        | answers | IoU |
        |---|---:|
        | GRPO | 0.500 ± 0.010 |
    """
    lines = ["| answers | " + " | ".join(columns.values()) + " |", "|---|" + "---:|" * len(columns)]
    for name, figures in rows.items():
        lines.append(f"| {name} | " + " | ".join(_cell(figures, column) for column in columns) + " |")
    return "\n".join(lines)


def _cell(figures: Mapping[str, float], column: str) -> str:
    if column not in figures:
        return "-"
    if column == "count":
        return f"{figures[column]:.0f}"
    error = figures.get(f"{column}_se", math.nan)
    return f"{figures[column]:.3f}" + (f" ± {error:.3f}" if math.isfinite(error) else "")

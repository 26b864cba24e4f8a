"""Markdown tables of figures."""

GB = 1e9


def gigabytes(size: float) -> str:
    """Return bytes in units of 10^9, with two decimals."""
    return f"{size / GB:.2f}"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return rows as a markdown table, the first column aligned left, figures right."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])

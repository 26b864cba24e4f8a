"""The report page: verdict, samples with their masks, tables and curves, in one safe file.

Names, answers and reasons are untrusted: the page has them only as escaped text or attributes. Its
one script is a fixed file, and the content policy of the page allows no other by its hash.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import BinaryIO

from segr1_jax.common.files import replacing
from segr1_jax.metrics.curves import Point, curves_section
from segr1_jax.metrics.sample_cards import LEGEND, ReportSample, sample_card
from segr1_jax.metrics.tables import Table
from segr1_jax.metrics.verdict import Verdict, verdict_section

ASSETS = Path(__file__).parent / "assets"
# Samples that a caller with many should choose: a page of about 15 MB.
MOST_SAMPLES = 240


def write_report(
    path: Path,
    title: str,
    tables: Sequence[Table] = (),
    curves: Mapping[str, Sequence[Point]] | None = None,
    samples: Iterable[ReportSample] = (),
    *,
    verdict: Verdict | None = None,
    highlights: Iterable[ReportSample] = (),
    sections: Sequence[str] = (),
) -> None:
    """Write the page, with samples as they come: memory does not grow with their number.

    `highlights` are a few samples that follow the verdict, `samples` are those that the reader
    searches. `curves` maps the name of each metric to its (step, value) points. `sections` are HTML
    at the end of the page; their makers escape what comes from outside. The file is written
    atomically.
    """
    drawn = curves_section(curves or {})
    with replacing(path) as file:
        _write(file, _head(title), verdict_section(verdict) if verdict else "")
        _write_list(file, highlights, "highlights", _highlights_head)
        _write(file, *map(_table, tables), drawn)
        written = _write_list(file, samples, "samples", lambda first: _CONTROLS)
        _write(file, *sections)
        _write(file, f"<script>{_script()}</script>" if written or drawn else "")
        _write(file, "</body></html>\n")


def _write_list(
    file: BinaryIO,
    samples: Iterable[ReportSample],
    kind: str,
    head: Callable[[ReportSample], str],
) -> int:
    """Write a list of samples below the head of its first one; return their number.

    Nothing is written where there are none.
    """
    written = 0
    for written, sample in enumerate(samples, start=1):
        if written == 1:
            legend = LEGEND if sample.truth is not None else ""
            _write(file, f'<section>{head(sample)}{legend}<ul class="{kind}">')
        _write(file, sample_card(sample))
    _write(file, "</ul></section>" if written else "")
    return written


def _write(file: BinaryIO, *parts: str) -> None:
    for part in parts:
        # Half a surrogate pair cannot be encoded.
        file.write(part.encode("utf-8", errors="replace"))


def _script() -> str:
    return (ASSETS / "report.js").read_text(encoding="utf-8")


def _head(title: str) -> str:
    digest = base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; form-action 'none'"
    )
    style = (ASSETS / "report.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><h1>{escape(title)}</h1>"
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.headings)
    body = "".join(_row(table, index) for index in range(len(table.rows)))
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    grid = f'<table class="stacked"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<h2>{escape(table.title)}</h2><div class="wide" tabindex="0">{grid}</div>{note}'


def _row(table: Table, index: int) -> str:
    return (
        f"<tr{' class=result' if index == table.result else ''}>"
        + "".join(_cells(table, index))
        + "</tr>"
    )


def _cells(table: Table, index: int) -> Iterator[str]:
    partial = table.partial if index == table.result else ()
    named = zip(table.headings, table.rows[index], strict=True)
    for column, (heading, cell) in enumerate(named):
        # A narrow page shows the heading beside the cell.
        gray = " class=partial" if column in partial else ""
        yield f'<td{gray} data-heading="{escape(heading)}">{escape(cell)}</td>'


def _highlights_head(first: ReportSample) -> str:
    title, also = "After training", ""
    if first.before is not None:
        title, also = "Before and after training", ", with the answers to the same samples before"
    note = f"The best, the median and the worst held-out sample by IoU after training{also}."
    return f'<h2>{title}</h2><p class="note">{note}</p>'


_CONTROLS = (
    "<h2>Samples</h2><form>"
    '<label>Status <select name="status"><option value="">all</option></select></label>'
    '<label>Order <select name="order"><option value="worst">worst IoU first</option>'
    '<option value="best">best IoU first</option><option value="name">by name</option>'
    "</select></label>"
    '<label>Name <input type="search" name="search" size="16" autocomplete="off"></label>'
    "<output></output></form>"
)

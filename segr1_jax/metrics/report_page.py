"""The report page: tables, curves, and samples with their masks, self-contained and safe to open.

Names, answers and reasons are untrusted: the page has them only as escaped text or attributes. Its
one script is a fixed file, and the content policy of the page allows no other by its hash.

Shape legend: H W native image in pixels.
"""

import base64
import dataclasses
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from segr1_jax.common.drawing import overlay
from segr1_jax.common.files import replacing
from segr1_jax.metrics.tables import Table
from segr1_jax.types import SamPrompt

ASSETS = Path(__file__).parent / "assets"
THUMBNAIL = 320  # pixels, the longer side
JPEG_QUALITY = 80
# Samples that a caller with many should choose: a page of about 15 MB.
MOST_SAMPLES = 240
CURVE = (320, 160)  # width and height in pixels


@dataclasses.dataclass(frozen=True)
class ReportSample:
    """One sample of the page; `iou` is None without a truth; prompts are in native pixels.

    A sample that cannot be read has no `image`, and a `reason`.
    """

    name: str
    instruction: str | None
    answer: str
    status: str
    iou: float | None
    image: UInt8[np.ndarray, "H W 3"] | None
    prediction: Bool[np.ndarray, "H W"] | None
    truth: Bool[np.ndarray, "H W"] | None
    prompts: tuple[SamPrompt, ...] = ()
    reason: str | None = None


def write_report(
    path: Path,
    title: str,
    tables: Sequence[Table],
    curves: Mapping[str, Sequence[tuple[float, float]]],
    samples: Iterable[ReportSample],
    sections: Sequence[str] = (),
) -> None:
    """Write the page, with samples as they come: memory does not grow with their number.

    `curves` maps the name of each metric to its (step, value) points. `sections` are HTML that
    follows the samples; their makers escape what comes from outside. The file is written
    atomically.
    """
    with replacing(path) as file:
        _write(file, _head(title), *map(_table, tables), _curves(curves))
        written = 0
        for written, sample in enumerate(samples, start=1):
            _write(file, _CONTROLS if written == 1 else "", _sample(sample))
        _write(file, f"</ul><script>{_script()}</script>" if written else "", *sections)
        _write(file, "</body></html>\n")


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
    grid = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<h2>{escape(table.title)}</h2><div class="wide" tabindex="0">{grid}</div>{note}'


def _row(table: Table, index: int) -> str:
    is_result = index == table.result
    partial = table.partial if is_result else ()
    cells = "".join(
        f"<td{' class=partial' if column in partial else ''}>{escape(cell)}</td>"
        for column, cell in enumerate(table.rows[index])
    )
    return f"<tr{' class=result' if is_result else ''}>{cells}</tr>"


def _curves(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    finite = {
        name: [point for point in points if np.isfinite(point).all()]
        for name, points in curves.items()
    }
    drawn = "".join(_curve(name, points) for name, points in finite.items() if len(points) > 1)
    return f'<h2>Curves</h2><div class="curves">{drawn}</div>' if drawn else ""


def _curve(name: str, points: Sequence[tuple[float, float]]) -> str:
    width, height = CURVE
    steps, values = np.array(points, np.float64).T
    low, high = values.min(), values.max()
    x = 4 + (steps - steps.min()) / max(np.ptp(steps), 1e-12) * (width - 8)
    y = height - 20 - (values - low) / max(high - low, 1e-12) * (height - 40)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    labels = f'<text x="4" y="12">{high:.4g}</text><text x="4" y="{height - 4}">{low:.4g}</text>'
    last = (
        f'<text x="{width - 4}" y="{height - 4}" text-anchor="end">'
        f"step {steps[-1]:g}: {values[-1]:.4g}</text>"
    )
    picture = (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(name)}">'
        f'<line x1="0" y1="{height - 18}" x2="{width}" y2="{height - 18}"/>'
        f'<polyline points="{line}"/>{labels}{last}</svg>'
    )
    return f"<figure>{picture}<figcaption>{escape(name)}</figcaption></figure>"


_CONTROLS = (
    "<h2>Samples</h2><form>"
    '<label>Status <select name="status"><option value="">all</option></select></label>'
    '<label>Order <select name="order"><option value="worst">worst IoU first</option>'
    '<option value="best">best IoU first</option><option value="name">by name</option>'
    "</select></label>"
    '<label>Name <input type="search" name="search" size="16" autocomplete="off"></label>'
    '<output></output></form><ul class="samples">'
)


def _sample(sample: ReportSample) -> str:
    iou = "" if sample.iou is None else f"{sample.iou:.4f}"
    bad = "" if sample.status == "ok" else " bad"
    texts = [
        ("Instruction", sample.instruction),
        ("Answer", sample.answer),
        ("Reason", sample.reason),
    ]
    listed = "".join(
        f'<dt>{name}</dt><dd dir="auto">{escape(text)}</dd>' for name, text in texts if text
    )
    name, status = escape(sample.name), escape(sample.status)
    figure = f", IoU {iou}" if iou else ""
    return (
        f'<li data-name="{name}" data-status="{status}" data-iou="{iou}">'
        f'<div class="pictures">{_pictures(sample)}</div>'
        f'<h3><bdi>{name}</bdi> <span class="status{bad}">{status}{figure}</span></h3>'
        f"<dl>{listed}</dl></li>"
    )


def _pictures(sample: ReportSample) -> str:
    if sample.image is None:
        return ""
    shown = {"image": sample.image}
    if sample.prediction is not None:
        shown["prediction with box and points"] = overlay(
            sample.image, sample.prediction, sample.prompts
        )
    if sample.truth is not None:
        shown["truth"] = overlay(sample.image, sample.truth)
    return "".join(_picture(kind, pixels, sample.name) for kind, pixels in shown.items())


def _picture(kind: str, pixels: UInt8[np.ndarray, "H W 3"], name: str) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    source = base64.b64encode(buffer.getvalue()).decode()
    size = f'width="{image.width}" height="{image.height}"'
    picture = (
        f'<img loading="lazy" {size} alt="{escape(f"{kind}: {name}")}" '
        f'src="data:image/jpeg;base64,{source}">'
    )
    return f"<figure>{picture}<figcaption>{kind}</figcaption></figure>"

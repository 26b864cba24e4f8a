"""Curves of the report page: SVG with axes, whose values the page's script reads out and smooths.

Without the script the curves are complete. The values and the scale are in `data-` attributes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

Point = tuple[float, float]  # step and value

WIDTH, HEIGHT = 360, 210
LEFT, TOP, RIGHT, BOTTOM = 46, 10, 348, 174  # edges of the plot inside the picture
Y_TICKS, X_TICKS = 5, 7
# A value this far beyond a round number, in units of the distance between them, needs no other one.
SLACK = 1e-4
MOST_POINTS = 2000  # of a curve; more are thinned to every n-th step
# Fewer points are drawn as dots, and not smoothed.
FEW_POINTS = 30
# Figures that are shares: their axis is 0 to 1, so that curves of different runs compare.
SHARES = ("iou", "s_measure", "format", "mae", "finished", "dead_groups", "clip_fraction")
TITLES = {
    "eval/iou": "IoU of held-out answers",
    "eval/s_measure": "S-measure of held-out masks",
    "eval/format": "share of valid held-out answers",
    "reward": "reward in training",
    "iou": "IoU in training",
    "format": "share of valid answers in training",
    "loss": "loss",
    "kl": "KL divergence from the start",
    "grad_norm": "norm of the gradient",
    "length": "length of answers in tokens",
}
_CONTROLS = (
    '<label class="smoothing" hidden>Smoothing of training curves '
    '<input type="range" min="0" max="0.98" step="0.02" value="0.8"> <output></output></label>'
)


def curves_section(curves: Mapping[str, Sequence[Point]]) -> str:
    """Return the HTML of the curves that have two finite points or more, or ""."""
    finite = {
        name: [point for point in points if np.isfinite(point).all()]
        for name, points in curves.items()
    }
    drawn = {name: _curve(name, points) for name, points in finite.items() if len(points) > 1}
    if not drawn:
        return ""
    controls = _CONTROLS if any(len(finite[name]) >= FEW_POINTS for name in drawn) else ""
    return (
        f'<section class="curves"><h2>Curves</h2>{controls}'
        f'<div class="grid">{"".join(drawn.values())}</div></section>'
    )


def ticks(low: float, high: float, most: int = Y_TICKS) -> list[float]:
    """Return at most `most` + 1 round numbers that cover `low` to `high`, at equal distances.

    Their distance is 1, 2 or 5 times a power of 10.

    Example:
        >>> ticks(0.13, 0.9)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = high - low
    if span <= SLACK**2 * abs(high):  # equal up to rounding
        span = abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    for step in (power, 2 * power, 5 * power, 10 * power, 20 * power):
        first, last = math.floor(low / step + SLACK), math.ceil(high / step - SLACK)
        if last - first <= most:
            break
    last = max(last, first + 1)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def _curve(name: str, points: list[Point]) -> str:
    kept = points[:: -(-len(points) // MOST_POINTS)]
    kept = kept if kept[-1] == points[-1] else [*kept, points[-1]]
    steps, values = np.array(kept, np.float64).T
    is_share = name.rpartition("/")[2] in SHARES and values.min() >= 0 and values.max() <= 1
    y_ticks = ticks(0, 1) if is_share else ticks(values.min(), values.max())
    x_range, y_range = (0.0, max(steps[-1], 1.0)), (y_ticks[0], y_ticks[-1])
    x_ticks = [tick for tick in ticks(*x_range, X_TICKS) if tick <= steps[-1]]
    x, y = _scaled(steps, x_range, LEFT, RIGHT), _scaled(values, y_range, BOTTOM, TOP)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    few = len(kept) < FEW_POINTS
    dots = "".join(
        f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in zip(x, y, strict=True) if few
    )
    title = TITLES.get(name, name)
    last = f"step {steps[-1]:g}: {values[-1]:.4g}"
    data = {
        "points": [[float(step), float(f"{value:.6g}")] for step, value in kept],
        "x": x_range,
        "y": y_range,
        "box": (LEFT, TOP, RIGHT, BOTTOM),
        "smooth": not few,
    }
    picture = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" '
        f'aria-label="{escape(f"{title}; {last}")}" data-curve="{escape(json.dumps(data))}">'
        f"{_axes(x_ticks, x_range, y_ticks, y_range)}"
        f'<polyline points="{line}"/>{dots}</svg>'
    )
    key = f" <code>{escape(name)}</code>" if title != name else ""
    return (
        f"<figure><figcaption><b>{escape(title)}</b>{key}</figcaption>{picture}"
        f'<p class="value">{last}</p></figure>'
    )


def _scaled(values: np.ndarray, span: tuple[float, float], start: float, end: float) -> np.ndarray:
    return start + (values - span[0]) / (span[1] - span[0]) * (end - start)


def _axes(
    x_ticks: Sequence[float],
    x_range: tuple[float, float],
    y_ticks: Sequence[float],
    y_range: tuple[float, float],
) -> str:
    rows = zip(y_ticks, _scaled(np.array(y_ticks), y_range, BOTTOM, TOP), strict=True)
    columns = zip(x_ticks, _scaled(np.array(x_ticks), x_range, LEFT, RIGHT), strict=True)
    horizontal = "".join(
        f'<line x1="{LEFT}" y1="{y:.1f}" x2="{RIGHT}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick, y in rows
    )
    vertical = "".join(
        f'<line x1="{x:.1f}" y1="{BOTTOM}" x2="{x:.1f}" y2="{BOTTOM + 4}"/>'
        f'<text x="{x:.1f}" y="{BOTTOM + 17}" text-anchor="middle">{tick:g}</text>'
        for tick, x in columns
    )
    middle = (LEFT + RIGHT) / 2
    label = f'<text x="{middle:g}" y="{HEIGHT - 3}" text-anchor="middle">step</text>'
    return horizontal + vertical + label

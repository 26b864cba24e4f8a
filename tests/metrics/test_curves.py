"""Axes of curves, checked from the SVG itself."""

import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from segr1_jax.metrics import curves as module
from segr1_jax.metrics.curves import BOTTOM, LEFT, MOST_POINTS, RIGHT, TOP, curves_section, ticks


def svgs(**curves) -> list[ElementTree.Element]:
    found = re.findall(r"<svg.*?</svg>", curves_section(curves))
    return [ElementTree.fromstring(svg) for svg in found]


def labels(svg: ElementTree.Element, anchor: str) -> list[tuple[float, float]]:
    """Value and coordinate of the ticks of an axis: "end" is the vertical one."""
    axis = "y" if anchor == "end" else "x"
    found = [text for text in svg.iter("text") if text.get("text-anchor") == anchor]
    return [(float(t.text), float(t.get(axis))) for t in found if t.text != "step"]


@pytest.mark.parametrize("seed", range(20))
def test_ticks_are_round_few_and_cover_the_values(seed):
    rng = np.random.default_rng(seed)
    low = float(rng.normal() * 10.0 ** rng.integers(-8, 8))
    high = low + float(rng.exponential() * 10.0 ** rng.integers(-6, 6))
    found = ticks(low, high)
    step = found[1] - found[0]
    assert 2 <= len(found) <= 6
    assert found[0] <= low + step * 1e-3
    assert found[-1] >= high - step * 1e-3
    assert f"{step:.0e}"[0] in "125"
    assert np.allclose(np.diff(found), step)


def test_equal_values_have_an_axis():
    assert ticks(16, 16)[0] <= 16 <= ticks(16, 16)[-1]
    assert ticks(0, 0)[0] <= 0 <= ticks(0, 0)[-1]
    assert len(set(ticks(1.0, 1.0 + 1e-15))) > 1, "equal up to rounding"
    (svg,) = svgs(loss=[(0, 1.0), (0, 1.0)])
    assert "nan" not in svg.find("polyline").get("points")


def test_the_line_agrees_with_the_ticks():
    points = [(0, 0.02), (50, 0.07), (100, 0.05)]
    (svg,) = svgs(loss=points)
    rows, columns = np.array(labels(svg, "end")), np.array(labels(svg, "middle"))
    drawn = [pair.split(",") for pair in svg.find("polyline").get("points").split()]
    for (step, value), (x, y) in zip(points, np.array(drawn, float), strict=True):
        assert x == pytest.approx(np.interp(step, *columns.T), abs=0.2)
        # The text of a tick is 4 units below its line.
        assert y == pytest.approx(np.interp(value, *rows.T) - 4, abs=0.2)


def test_shares_have_the_axis_from_0_to_1_and_others_that_of_their_values():
    inside, outside = [(0, 0.7), (9, 0.8)], [(0, 0.7), (9, 1.2)]
    share, reward, beyond = svgs(**{"eval/iou": inside, "reward": inside, "format": outside})
    assert [value for value, _ in labels(share, "end")] == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert labels(reward, "end")[0][0] == 0.7
    assert labels(beyond, "end")[-1][0] >= 1.2


def test_long_curves_are_thinned_and_keep_their_ends(monkeypatch):
    monkeypatch.setattr(module, "MOST_POINTS", 10)
    (svg,) = svgs(loss=[(step, float(step)) for step in range(1, 96)])
    data = json.loads(svg.get("data-curve"))
    assert len(data["points"]) <= 11
    assert (data["points"][0], data["points"][-1]) == ([1, 1], [95, 95])
    assert data["box"] == [LEFT, TOP, RIGHT, BOTTOM]
    assert MOST_POINTS == 2000


def test_a_curve_needs_two_points():
    unusable = {"loss": [(1, 0.5)], "kl": [], "iou": [(0, float("nan")), (1, 0.5)]}
    assert curves_section(unusable) == ""

"""The report in a real browser.

It works, hostile text stays text, the console is quiet, nothing is fetched.
"""

import json

import numpy as np
import pytest
from browser_pages import ANSWER, HOSTILE, WIDTHS, watched_page

from segr1_jax.metrics.report_page import write_report
from segr1_jax.metrics.sample_cards import ReportSample, ShownAnswer
from segr1_jax.metrics.tables import Table
from segr1_jax.metrics.verdict import Figure, Verdict

# Contrast of the text of an element with the nearest opaque background (WCAG 2).
CONTRAST = """element => {
  const light = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).map(Number)
      .map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const isClear = (color) => /, 0\\)$|transparent/.test(color);
  const style = getComputedStyle(element);
  let below = element;
  while (isClear(getComputedStyle(below).backgroundColor)) below = below.parentElement;
  const ink = element.closest("svg") ? style.fill : style.color;
  const pair = [light(ink), light(getComputedStyle(below).backgroundColor)];
  return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_report_filters_sorts_and_searches(browser, tmp_path, width):
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    mask = image[..., 0] > 128
    named = [("b", "ok", 0.9), ("a", "ok", 0.2), (HOSTILE, "bad_box", 0.0), ("c", "ok", None)]
    samples = [
        ReportSample(name, HOSTILE, ShownAnswer(HOSTILE, status, iou, mask), image, mask)
        for name, status, iou in named
    ]
    table = Table("Figures", ["set", *"SFEM"], [["ours", *["0.1"] * 4]], HOSTILE)
    write_report(tmp_path / "report.html", HOSTILE, [table], {"iou": [(0, 0.1), (5, 0.4)]}, samples)
    with watched_page(browser, width) as page:
        page.goto((tmp_path / "report.html").as_uri())

        def shown() -> list[str]:
            return [
                item.get_attribute("data-name")
                for item in page.query_selector_all(".samples > li")
                if item.is_visible()
            ]

        assert shown() == ["c", HOSTILE, "a", "b"], "worst first, without truth before all"
        page.select_option("select[name=order]", "best")
        assert shown() == ["b", "a", HOSTILE, "c"]
        page.select_option("select[name=status]", "bad_box")
        assert shown() == [HOSTILE]
        page.select_option("select[name=status]", "")
        page.fill("input[name=search]", "A")
        assert shown() == ["a", HOSTILE]
        assert page.inner_text("output") == "2 of 4"
        assert HOSTILE in page.inner_text("dd >> nth=0")


@pytest.fixture(scope="module")
def run_page(tmp_path_factory) -> str:
    """The page of a run: verdict, samples before and after, a table, a long and a short curve."""
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8), np.zeros((90, 120), bool)
    mask[20:60, 20:60] = True
    samples = [
        ReportSample(
            f"photo {index}",
            "the cup",
            ShownAnswer(ANSWER, "ok", 0.1 * index, mask),
            image,
            np.roll(mask, index, axis=1),
            ShownAnswer("<bbox>", "missing_think", 0.0),
            rank=rank,
        )
        for index, rank in enumerate(("best", "median", "worst", "", "", ""))
    ]
    noise = rng.normal(0.5, 0.1, 100).round(3).tolist()
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(
        path,
        "grpo",
        [Table("Held-out set", ["answers", "IoU"], [["before", "0.4"], ["after", "0.5"]])],
        {"eval/iou": [(0, 0.4), (100, 0.5)], "loss": list(enumerate(noise, start=1))},
        samples[3:],
        verdict=Verdict("It rose.", [Figure("gain", "+0.1", "± 0.01")], ["note"], {"Run": "a"}),
        highlights=samples[:3],
    )
    return path.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_report_of_a_run_fits_and_is_legible(browser, run_page, width, scheme):
    with watched_page(browser, width, scheme=scheme) as page:
        page.goto(run_page)
        assert page.locator(".sentence").bounding_box()["y"] < 200, "the verdict opens the page"
        assert page.locator(".highlights > li").count() == 3
        assert page.locator(".legend").count() == 2
        for selector in ("body", ".verdict .note", ".highlights figcaption small", "svg text"):
            assert page.locator(selector).first.evaluate(CONTRAST) >= 4.5, selector
        boxes = [item.bounding_box() for item in page.locator(".samples > li").all()]
        in_a_row = sum(box["y"] == boxes[0]["y"] for box in boxes)
        assert in_a_row == {1280: 2, 390: 1}[width]
        cell = page.locator("td[data-heading=IoU]").first
        heading = cell.evaluate("cell => getComputedStyle(cell, '::before').content")
        assert heading == {1280: "none", 390: '"IoU"'}[width], "a row of a narrow page is a block"


def test_curves_are_read_with_pointer_and_keys_and_smoothed(browser, run_page):
    with watched_page(browser, WIDTHS["desktop"]) as page:
        page.goto(run_page)
        short, long = page.locator("svg[data-curve]").all()
        points = json.loads(long.get_attribute("data-curve"))["points"]
        value = page.locator(".value").nth(1)
        assert page.locator(".value").first.inner_text() == "step 100: 0.5"
        assert value.inner_text().startswith(f"step 100: {points[-1][1]:g}, average")
        long.focus()
        page.keyboard.press("ArrowLeft")
        assert value.inner_text().startswith(f"step 99: {points[-2][1]:g}")
        page.keyboard.press("Home")
        assert value.inner_text() == f"step 1: {points[0][1]:g}, average {points[0][1]:g}"
        box = long.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
        middle = int(value.inner_text().split()[1].rstrip(":"))
        assert 40 < middle < 60
        assert f"{points[middle - 1][1]:g}" in value.inner_text()
        assert long.locator(".cursor").get_attribute("hidden") is None
        smoothing = page.locator(".smoothing input")
        assert long.locator(".average").get_attribute("points")
        assert not short.locator(".average").get_attribute("points"), "two points stay as they are"
        smoothing.focus()
        page.keyboard.press("Home")
        assert page.locator(".smoothing output").inner_text() == "0.00"
        assert not long.locator(".average").get_attribute("points")
        long.focus()
        page.keyboard.press("Home")
        assert value.inner_text() == f"step 1: {points[0][1]:g}"


def test_the_average_is_that_of_tensorboard(browser, run_page):
    """A weighted mean of all values so far, the newest with weight 1, then w, w^2, ..."""
    with watched_page(browser, WIDTHS["desktop"]) as page:
        page.goto(run_page)
        long = page.locator("svg[data-curve]").nth(1)
        values = [value for _, value in json.loads(long.get_attribute("data-curve"))["points"]]
        weights = 0.8 ** np.arange(len(values))[::-1]
        expected = np.average(values, weights=weights)
        shown = page.locator(".value").nth(1).inner_text().rpartition(" ")[2]
        assert float(shown) == pytest.approx(expected, rel=1e-3)


def test_everything_is_reached_with_the_tab_key(browser, run_page):
    with watched_page(browser, WIDTHS["narrow"]) as page:
        page.goto(run_page)
        reached = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.tagName"))
        assert {"SVG", "INPUT", "SELECT"} <= {name.upper() for name in reached}


def test_report_without_truth_orders_by_name(browser, tmp_path):
    image = np.zeros((60, 90, 3), np.uint8)
    samples = [ReportSample(name, None, ShownAnswer("", "ok"), image) for name in "ba"]
    write_report(tmp_path / "report.html", "t", [], {}, samples)
    with watched_page(browser, WIDTHS["desktop"]) as page:
        page.goto((tmp_path / "report.html").as_uri())
        assert [
            item.get_attribute("data-name") for item in page.query_selector_all(".samples > li")
        ] == ["a", "b"]
        assert page.inner_text("select[name=order]").split() == ["by", "name"]

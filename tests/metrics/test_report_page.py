"""The report page, read back by the standard library's HTML parser.

What came from outside is text, and nothing else runs.
"""

import base64
import hashlib
import json
from html.parser import HTMLParser

import numpy as np
import pytest

from segr1_jax.errors import UserError
from segr1_jax.metrics.report_page import write_report
from segr1_jax.metrics.sample_cards import ReportSample, ShownAnswer
from segr1_jax.metrics.tables import Table
from segr1_jax.metrics.verdict import Figure, Verdict
from segr1_jax.types import SamPrompt

HOSTILE = [
    "<script>alert(1)</script>",
    "</textarea></li><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x=\'',
    "--><!-- ]]> </script>",
    "عربي \u202e desrever \u0007 bell & &amp; &#60;",
    "javascript:alert(1)",
]
VOID = {"meta", "img", "input", "line", "polyline", "circle", "br", "link"}


class Read(HTMLParser):
    """Texts by the element they stand in, attributes, scripts."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.stack, self.texts, self.tags, self.scripts = [], {}, [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert not self.stack or self.stack[-1] == tag or tag in VOID, (
            f"{tag} closes {self.stack[-1]}"
        )
        if tag not in VOID:
            self.stack.pop()

    def handle_data(self, data):
        where = self.stack[-1] if self.stack else ""
        (self.scripts if where == "script" else self.texts.setdefault(where, [])).append(data)


def sample(text: str, **changes) -> ReportSample:
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8), rng.random((60, 90)) < 0.2
    prompt = SamPrompt(
        np.array([5, 5, 40, 40], np.float32),
        np.array([[10, 10]], np.float32),
        np.array([1], np.int32),
    )
    fields = {"text": text, "status": "ok", "iou": 0.5, "mask": mask, "prompts": (prompt,)}
    instruction = changes.pop("instruction", text)
    answer, before = ShownAnswer(**fields | changes), changes.pop("before", None)
    return ReportSample(text, instruction, answer, image, mask, before)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    samples = [sample(text, status=text) for text in HOSTILE] + [
        sample("plain", iou=None, instruction=None)
    ]
    tables = [Table(text, ["answers", text], [[text, "0.5"]], text) for text in HOSTILE]
    write_report(
        path,
        HOSTILE[0],
        tables,
        {text: [(0, 0.1), (10, 0.7), (20, 0.6)] for text in HOSTILE},
        iter(samples),
        verdict=Verdict(HOSTILE[1], [Figure(*HOSTILE[:3])], HOSTILE, {t: t for t in HOSTILE}),
    )
    return path.read_text(encoding="utf-8")


def test_everything_from_outside_stays_text(page):
    read = Read(page)
    for text in HOSTILE:
        assert read.texts["dd"].count(text) == 3, "instruction, answer, fact of the verdict"
        assert text in read.texts["p"]
        assert text in read.texts["h2"]
        assert read.texts["td"].count(text) == 1
        assert read.texts["dt"].count(text) == 1
        assert any(
            tag == "li" and attrs.get("data-name") == text == attrs["data-status"]
            for tag, attrs in read.tags
        )
    assert read.stack == []


def test_one_script_that_is_ours_and_nothing_from_elsewhere(page):
    read = Read(page)
    assert len(read.scripts) == 1
    digest = base64.b64encode(hashlib.sha256(read.scripts[0].encode()).digest()).decode()
    policy = next(
        attrs["content"]
        for tag, attrs in read.tags
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not any(name.startswith("on") for _, attrs in read.tags for name in attrs)
    sources = [attrs[name] for _, attrs in read.tags for name in ("src", "href") if name in attrs]
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert all(attrs.get("alt") for tag, attrs in read.tags if tag == "img")


def test_samples_carry_what_the_controls_need(page):
    items = [attrs for tag, attrs in Read(page).tags if tag == "li" and "data-iou" in attrs]
    assert [item["data-iou"] for item in items] == ["0.5000"] * len(HOSTILE) + [""]


def test_a_page_of_tables_alone_has_no_controls(tmp_path):
    write_report(tmp_path / "t.html", "t", [Table("figures", ["a"], [["b"]])], {}, [])
    read = Read((tmp_path / "t.html").read_text())
    assert (read.stack, read.scripts) == ([], [])
    assert not [tag for tag, _ in read.tags if tag in ("form", "ul")]


def test_a_report_is_whole_or_not_there(tmp_path):
    def broken():
        yield sample("a")
        raise UserError("b.png", expected="a picture", got="none", remedy="mend it")

    (tmp_path / "report.html").write_text("old")
    with pytest.raises(UserError):
        write_report(tmp_path / "report.html", "t", [], {}, broken())
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


def test_curves_leave_out_what_is_no_number(tmp_path):
    write_report(
        tmp_path / "page.html",
        "t",
        [],
        {"loss": [(0, 1.0), (1, float("nan")), (2, float("inf")), (3, 0.5)]},
        [],
    )
    read = Read((tmp_path / "page.html").read_text())
    (data,) = [json.loads(attrs["data-curve"]) for _, attrs in read.tags if "data-curve" in attrs]
    assert data["points"] == [[0, 1.0], [3, 0.5]]
    assert len(read.scripts) == 1, "curves without samples are read out too"

"""The report and the demo in a real browser.

They work, hostile text stays text, the console is quiet, nothing is fetched.
"""

import contextlib
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_run import CONFIG

from segr1_jax.config.loading import load_config
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.metrics.report_page import write_report
from segr1_jax.metrics.sample_cards import ReportSample, ShownAnswer
from segr1_jax.metrics.tables import Table
from segr1_jax.training.held_out import Answerer
from segr1_jax.types import Completion

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
HOSTILE = (
    "<script>document.title='ran'</script></textarea><img src=x onerror=\"document.title='ran'\">"
)
ANSWER = (
    f"<think>{HOSTILE}</think> <bbox>[20,20,150,150]</bbox>, "
    "<points>[[84,84]]</points>, <labels>[1]</labels>"
)
REMOVE = "button[aria-label*='emove'], button[aria-label*='lear']"  # there once the picture is up
WIDTHS = {"desktop": 1280, "narrow": 390}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright drives the browser (pip install playwright)"
    )
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@contextlib.contextmanager
def watched_page(browser, width: int, height: int = 900):
    """A page; its console must have no error at the end, and it may ask only this machine."""
    page, faults = browser.new_page(viewport={"width": width, "height": height}), []
    page.on(
        "console", lambda message: faults.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: faults.append(str(error)))
    own = ("http://127.0.0.1", "file:", "data:", "blob:")
    page.on(
        "request",
        lambda request: None if request.url.startswith(own) else faults.append(request.url),
    )
    yield page
    assert faults == []
    assert page.title() != "ran"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
        "no sideways scrolling"
    )
    page.close()


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


@pytest.fixture
def demo_url(tmp_path, monkeypatch, free_port):
    """The demo with a tiny policy whose answers come from a script, and the real sidecar."""
    pytest.importorskip("gradio", reason="the demo needs the extra `demo`")
    from segr1_jax.infer.demo_answers import Demo
    from segr1_jax.infer.demo_page import build_page
    from segr1_jax.infer.responder import responding

    def answer(self, prompts):
        empty = np.zeros(0, np.int32)
        return [
            Completion(prompt.example_id, 0, empty, empty.astype(np.float32), True, ANSWER, 0)
            for prompt in prompts
        ]

    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    monkeypatch.setattr(Answerer, "__call__", answer)
    make_tiny_policy(tmp_path / "tiny", seed=0)
    with responding(
        load_config(CONFIG, ["eval_batch=2", "prompt.max_tokens=200"]), tmp_path / "tiny"
    ) as responder:
        page = build_page(Demo(responder, tmp_path))
        page.launch(
            server_name="127.0.0.1",
            server_port=free_port,
            prevent_thread_lock=True,
            quiet=True,
            allowed_paths=[str(tmp_path)],
        )
        yield f"http://127.0.0.1:{free_port}"
        page.close()


def test_demo_from_upload_to_mask(browser, demo_url, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)).save(
        tmp_path / "up.png"
    )
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for width in WIDTHS.values():
        with watched_page(browser, width) as page:
            page.goto(demo_url)
            page.get_by_role("button", name="Ask").click()
            page.wait_for_function(
                "[...document.querySelectorAll('textarea, input')]"
                ".some(x => x.value.includes('upload one first'))"
            )
            page.set_input_files("input[type=file]", str(tmp_path / "broken.png"))
            page.locator(REMOVE).wait_for()
            page.get_by_role("button", name="Ask").click()
            page.wait_for_function(
                "[...document.querySelectorAll('textarea, input')]"
                ".some(x => x.value.includes('a readable image file'))"
            )
            page.locator(REMOVE).click()
            page.set_input_files("input[type=file]", str(tmp_path / "up.png"))
            page.locator(REMOVE).wait_for()
            page.get_by_label("What to segment").fill(HOSTILE)
            page.get_by_role("button", name="Ask").click()
            page.wait_for_function(
                "[...document.querySelectorAll('textarea, input')]"
                ".some(x => x.value.startsWith('ok: '))"
            )
            assert page.get_by_label("Reasoning and answer").input_value() == ANSWER
            page.wait_for_selector("a[href*='mask.png']", state="attached")
    masks = sorted(Path(tmp_path).glob("*/mask.png"))
    assert masks
    assert Image.open(masks[0]).size == (160, 120)


def test_demo_says_what_is_wrong_and_compiles_once_for_all_temperatures(tmp_path, monkeypatch):
    from segr1_jax.infer import demo_answers as module
    from segr1_jax.infer.responder import responding

    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    make_tiny_policy(tmp_path / "tiny", seed=0)
    Image.new("RGB", (50, 40)).save(tmp_path / "small.png")
    with responding(
        load_config(CONFIG, ["eval_batch=2", "prompt.max_tokens=200"]), tmp_path / "tiny"
    ) as responder:
        demo = module.Demo(responder, tmp_path)
        (tmp_path / "broken.png").write_bytes(b"no picture")
        assert "a readable image file" in demo.answer(str(tmp_path / "broken.png"), "", 0).status
        monkeypatch.setattr(module, "MOST_PIXELS", 1000)
        assert "megapixels, got 50 x 40" in demo.answer(str(tmp_path / "small.png"), "", 0).status
        monkeypatch.setattr(module, "MOST_PIXELS", 10**6)
        monkeypatch.setattr(module, "MOST_BYTES", 10)
        assert "MB" in demo.answer(str(tmp_path / "small.png"), "", 0).status
        monkeypatch.setattr(module, "MOST_BYTES", 10**6)
        assert "special token" in demo.answer(str(tmp_path / "small.png"), "<|im_end|>", 0).status
        texts = [
            demo.answer(str(tmp_path / "small.png"), "", temperature).text
            for temperature in (0.5, 1.0, 1.7)
        ]
        assert (
            "at most 400 characters, got 401"
            in demo.answer(str(tmp_path / "small.png"), "a" * 401, 0).status
        )
        assert len(set(texts)) == 3
        assert demo._tempered._cache_size() == 1

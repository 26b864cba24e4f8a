"""The demo in a real browser, from an upload or an example to the mask."""

from pathlib import Path

import jax
import numpy as np
import pytest
from browser_pages import ANSWER, HOSTILE, TAGS, WIDTHS, watched_page
from PIL import Image
from tiny_run import CONFIG

from segr1_jax.config.loading import load_config
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.training.held_out import Answerer
from segr1_jax.types import Completion

REMOVE = "button[aria-label*='emove'], button[aria-label*='lear']"  # there once the picture is up

pytestmark = pytest.mark.slow


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
            assert page.get_by_label("Thinking").input_value() == HOSTILE
            assert page.get_by_label("Answer", exact=True).input_value() == TAGS
            page.wait_for_selector("a[href*='mask.png']", state="attached")
    masks = sorted(Path(tmp_path).glob("*/mask.png"))
    assert masks
    assert Image.open(masks[0]).size == (160, 120)


def test_an_example_of_the_demo_is_answered(browser, demo_url):
    with watched_page(browser, WIDTHS["narrow"]) as page:
        page.goto(demo_url)
        assert page.get_by_label("Policy").input_value() == "tiny"
        assert page.get_by_text("trained on synthetic pictures only").count() == 0
        page.get_by_text("the red object").click()
        page.locator(REMOVE).wait_for()
        assert page.get_by_label("What to segment").input_value() == "the red object"
        page.get_by_role("button", name="Ask").click()
        page.wait_for_function(
            "[...document.querySelectorAll('textarea, input')]"
            ".some(x => x.value.startsWith('ok: '))"
        )


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

"""General questions are put with each picture at its own aspect ratio.

The frames are those of transformers.
"""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from tiny_run import CONFIG, FakeClient
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from segr1_jax.config.loading import load_config
from segr1_jax.data.general_benchmarks import Question
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.infer.general_questions import ask_all
from segr1_jax.infer.load_policy import open_policy
from segr1_jax.infer.responder import Responder
from segr1_jax.training.engine import Engine

SIZES = [(112, 336), (500, 100), (168, 168), (30, 40)]  # height, width
FRAME, SMALLEST = 168, 56 * 56


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asking")
    make_tiny_policy(folder / "tiny", seed=0)
    changes = [
        "batch=8",
        "micro_batches=1",
        "eval_batch=8",
        "rollout.max_tokens=2",
        "prompt.max_tokens=160",
    ]
    return open_policy(load_config(CONFIG, [f"prompt.frame={FRAME}", *changes]), folder / "tiny")


def question(index: int, size: tuple[int, int]) -> Question:
    pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    picture = base64.b64encode(content.getvalue()).decode()
    return Question(str(index), picture, "Is it bright?", {}, "yes", "", f"row {index}")


def test_pictures_keep_their_aspect_ratio(opened, tmp_path, monkeypatch):
    frames, put = [], Engine.put_prompts

    def spy(self, prompts):
        frames.extend(prompt.model_frame for prompt in prompts)
        return put(self, prompts)

    monkeypatch.setattr(Engine, "put_prompts", spy)
    questions = [question(index, size) for index, size in enumerate(SIZES)]
    responder = Responder(opened, FakeClient(None, None))
    answered, faults = ask_all(responder, questions, tmp_path / "out", {"of": "this"})
    assert faults == {}
    assert all(item.text is not None for item in answered)
    bounds = {"min_pixels": SMALLEST, "max_pixels": FRAME**2}
    assert [(frame.height, frame.width) for frame in frames[: len(SIZES)]] == [
        smart_resize(*size, factor=28, **bounds) for size in SIZES
    ]
    # Answers about stretched pictures, which an earlier version left, are told apart.
    identity = json.loads((tmp_path / "out/identity.json").read_text())
    assert identity["of"] == "this"
    assert (identity["prompt"]["frame"], identity["prompt"]["max_pixels"]) == (0, FRAME**2)


def test_all_benchmarks_share_the_compiled_programs(opened):
    assert opened.own_frames is opened.own_frames
    assert opened.engine.config.prompt.frame == FRAME

"""Fixtures of several folders: a small set with faults, scripted answers, quick compilation."""

import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from small_set import COUNT, GOOD, HOSTILE, SIDE

from segr1_jax.data.config import DataConfig
from segr1_jax.data.synthetic import generate
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.training.held_out import Answerer
from segr1_jax.types import Completion


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny policy, and a set of which one picture is broken and one mask has another size."""
    folder = tmp_path_factory.mktemp("evaluate")
    make_tiny_policy(folder / "tiny", seed=0)
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for index in range(COUNT):
        example = generate(DataConfig(size=SIDE, seed=9), index)
        Image.fromarray(example.image).save(folder / f"images/{index}.png")
        Image.fromarray(example.mask).save(folder / f"masks/{index}.png")
    (folder / "images/2.png").write_bytes(b"no picture")
    Image.new("1", (9, 9)).save(folder / "masks/4.png")
    return folder


@pytest.fixture
def scripted(monkeypatch):
    """Answers by example id instead of a trained policy's.

    The last is hostile and does not parse.
    """

    def answer(self, prompts):
        texts = [HOSTILE if prompt.example_id == COUNT - 1 else GOOD for prompt in prompts]
        nothing = np.zeros(0, np.int32)
        return [
            Completion(p.example_id, 0, nothing, nothing.astype(np.float32), True, t, 0)
            for p, t in zip(prompts, texts, strict=True)
        ]

    monkeypatch.setattr(Answerer, "__call__", answer)


@pytest.fixture
def one_device(monkeypatch):
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)


@pytest.fixture(scope="module")
def compile_quickly():
    """Compile without most optimizations, here and in commands: whole runs compute little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        before = jax.config.read("jax_disable_most_optimizations")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def heed_interrupts():
    """A shell starts its background jobs with SIGINT ignored, and what is ignored stays so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)

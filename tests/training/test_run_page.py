"""report.html of whole runs: with a gain, resumed, without an evaluation before, all invalid."""

import re
from html import unescape

import numpy as np
import pytest
from tiny_run import train

from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.training.held_out import Answerer
from segr1_jax.types import Completion

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("compile_quickly")]

OPTIONS = ("steps=2", "optimizer.schedule=constant")
TAGS = "<bbox>[9,9,50,50]</bbox>, <points>[[20,20]]</points>, <labels>[1]</labels>"
VALID = f"<think>a cup</think> {TAGS}"


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("runs") / "tiny", seed=1, frame=84)


@pytest.fixture
def learning(monkeypatch):
    """Evaluations of policies that answer well once they were trained."""

    def answer(self, prompts):
        trained = self.weights is not first.setdefault("weights", self.weights)
        empty = np.zeros(0, np.int32)
        text = VALID if trained else "nonsense"
        return [Completion(p.example_id, 0, empty, empty + 0.0, True, text, 0) for p in prompts]

    first = {}
    monkeypatch.setattr(Answerer, "__call__", answer)


def page_of(monkeypatch, policy, run, *options: str) -> str:
    train(monkeypatch, policy, run, lambda position: (0.0, 1.0), *OPTIONS, *options)
    return (run / "report.html").read_text()


def sentence(page: str) -> str:
    return unescape(re.search(r'<p class="sentence">(.*?)</p>', page)[1])


@pytest.mark.usefixtures("learning")
def test_a_resumed_run_shows_the_gain_since_its_first_evaluation(monkeypatch, policy, tmp_path):
    for steps in (2, 4):
        page = page_of(monkeypatch, policy, tmp_path / "run", f"steps={steps}")
        assert sentence(page) == (
            f"{steps} steps of GRPO on synthetic pictures raised the mean held-out IoU from 0.000 "
            "to 0.500 (+0.500 ± 0.000), on 8 images."
        )
        assert f"for {steps} steps" in page
        assert page.count("<small>no mask: missing_think</small>") == 8, "the answers before"
        assert "trained on synthetic pictures only" in page


@pytest.mark.usefixtures("learning")
def test_without_an_evaluation_before(monkeypatch, policy, tmp_path):
    page = page_of(monkeypatch, policy, tmp_path / "run", "eval_first=false", "steps=1")
    assert sentence(page).startswith("After 1 step of GRPO on synthetic pictures, ")
    assert "not evaluated before training" in page
    assert 'class="before"' not in page


def test_a_run_without_a_valid_answer(monkeypatch, policy, tmp_path):
    page = page_of(monkeypatch, policy, tmp_path / "run")
    assert "none of the 8 held-out answers is valid" in sentence(page)
    assert "Before and after" not in page, "no sample is better than another"
    assert page.count('<li data-name="bright') == 8

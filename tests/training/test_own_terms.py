"""Whole runs that are rewarded by a term of the user."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_run import FakeClient, metrics, small_config, use_one_device

from segr1_jax.errors import UserError
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.training.held_out import Answerer
from segr1_jax.training.loop import run_grpo
from segr1_jax.training.scoring import GroupScorer
from segr1_jax.types import Completion

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.usefixtures("compile_quickly")]

SOURCE = """
def points(answer, mask, truth):
    assert (mask == truth).all()
    return len(answer.points) / 4
"""
# Of FakeClient: IoU and S are .5.
BUILT_IN = 1.0 + 0.7 * 0.5 + 0.3 * 0.5


def answer_of(points: int) -> str:
    middle = ",".join(["[20,20]"] * points)
    labels = ",".join(["1"] * points)
    return (
        "<think>a</think> <bbox>[10,10,40,40]</bbox>, "
        f"<points>[{middle}]</points>, <labels>[{labels}]</labels>"
    )


class Scripted(GroupScorer):
    """The second completion of each group has three points, the first has one."""

    def send(self, ended):
        return super().send(
            [each._replace(text=answer_of(1 + 2 * each.number), finished=True) for each in ended]
        )


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Train with a term of this source."""
    monkeypatch.chdir(tmp_path)
    use_one_device(monkeypatch)
    nothing = np.zeros(0, np.int32)

    def answers(self, prompts):
        return [
            Completion(p.example_id, 0, nothing, nothing.astype(np.float32), True, answer_of(2), 0)
            for p in prompts
        ]

    monkeypatch.setattr(Answerer, "__call__", answers)
    make_tiny_policy(tmp_path / "tiny", seed=0, frame=84)

    def train(source: str, *overrides: str) -> Path:
        Path("mine.py").write_text(source)
        terms = ["reward.terms=[format,iou,s_measure,mine.py:points]", "reward.weights.points=-0.2"]
        config = small_config(Path("tiny"), Path("run"), "steps=2", *terms, *overrides)
        run_grpo(config, connect=FakeClient, make_scorer=Scripted)
        return Path("run")

    return train


def test_a_term_is_learned_from_logged_and_compared_at_resume(run):
    folder = run(SOURCE)
    for line in metrics(folder):
        assert line["reward/points"] == pytest.approx(0.5)
        assert line["reward"] == pytest.approx(BUILT_IN - 0.2 * 0.5)
        assert line["reward_std"] == pytest.approx(0.2 * 0.5 / np.sqrt(2))
        assert line["dead_groups"] == 0
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line["eval/reward/points"] for line in lines if "eval/iou" in line]
    assert evaluated == [0.5, 0.5]
    row = json.loads((folder / "eval/step_000002.rows_0.jsonl").read_text().splitlines()[0])
    assert row["own"] == {"points": 0.5}
    assert "reward/points" in (folder / "report.md").read_text()
    with pytest.raises(UserError, match=r"reward\.term_files\.points: 'mine\.py .*another run_dir"):
        run(SOURCE.replace("4", "5"))


def test_a_term_that_fails_ends_the_run_by_its_name(run):
    with pytest.raises(UserError, match=r"mine\.py:points.*sample .*AssertionError"):
        run(SOURCE.replace("(mask == truth).all()", "answer.points[1:]"), "steps=9")


def test_a_term_that_fails_on_some_costs_their_completions_only(run, capsys):
    """Held-out figures keep such samples, with what else is known of them."""
    fails = "    if example.id == 3: example.image[:] = 0\n    return"
    source = SOURCE.replace("    return", fails).replace("mask, truth)", "mask, truth, example)")
    folder = run(source)
    assert "mine.py:points failed on sample" in capsys.readouterr().err
    figures = json.loads((folder / "eval/step_000002.json").read_text())
    assert figures["count"] == 8
    assert figures["reward/points"] == 0.5
    assert all(line["loss"] > 0 or line["loss"] <= 0 for line in metrics(folder))

"""A signal to stop saves the step first, wherever it comes, and the same command ends the same."""

import json
import os
import signal

import pytest
from tiny_run import FakeClient, train

from segr1_jax.errors import Preempted
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.runtime.preemption import Preemption

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("compile_quickly", "heed_interrupts")]

OPTIONS = ("steps=4", "eval_every=2", "save_every=4", "keep_best=1", "eval_data.count=24")
BATCHES = 3  # of an evaluation


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("runs") / "tiny", seed=1, frame=84)


def run_with_signal(monkeypatch, policy, run, number=signal.SIGTERM, *, at: int) -> None:
    """A run that gets a signal while it scores the batch `at` of its evaluations, 0 for none."""
    scored = 0

    class Client(FakeClient):
        def submit(self, requests):
            nonlocal scored
            scored += 1
            if scored == at:
                os.kill(os.getpid(), number)
            return super().submit(requests)

    train(monkeypatch, policy, run, lambda position: (0.0, 1.0), *OPTIONS, client=Client)


def lines(run):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if not k.startswith(("time/", "sidecar/"))} for line in found
    ]


def saved(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


@pytest.fixture(scope="module")
def whole(policy, tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        run = tmp_path_factory.mktemp("whole") / "run"
        run_with_signal(monkeypatch, policy, run, at=0)
        return run


PLACES = {
    "first evaluation": (1, 0),
    "due evaluation": (BATCHES + 1, 2),
    "last evaluation": (2 * BATCHES + 2, 4),
    "closing report": (3 * BATCHES + 1, 4),
}
FAST = {
    (signal.SIGTERM, "due evaluation"),
    (signal.SIGTERM, "closing report"),
    (signal.SIGINT, "first evaluation"),
}


@pytest.mark.parametrize(
    ("number", "at", "step"),
    [
        pytest.param(
            number,
            *PLACES[place],
            id=f"{number.name} at the {place}",
            marks=[] if (number, place) in FAST else pytest.mark.slow,
        )
        for number in (signal.SIGTERM, signal.SIGINT)
        for place in PLACES
    ],
)
def test_the_step_is_saved_first(whole, policy, tmp_path, monkeypatch, at, step, number):
    run = tmp_path / "run"
    with pytest.raises(Preempted) as stopped:
        run_with_signal(monkeypatch, policy, run, number, at=at)
    assert (stopped.value.step, stopped.value.status) == (step, 128 + number)
    assert saved(run / "checkpoints") == [step] * (step > 0)
    run_with_signal(monkeypatch, policy, run, at=0)
    assert lines(run) == lines(whole)
    assert saved(run / "best") == saved(whole / "best")
    assert (run / "report.md").read_text() == (whole / "report.md").read_text()


def test_a_second_signal_has_its_default_effect():
    with Preemption() as preemption:
        os.kill(os.getpid(), signal.SIGINT)
        assert preemption.agreed() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Preemption() as preemption:
            os.kill(os.getpid(), signal.SIGINT)
            assert preemption.agreed() == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_evaluation_is_capped_and_left_out_at_first(policy, tmp_path, monkeypatch):
    run = tmp_path / "run"
    options = ("steps=2", "eval_every=1", "save_every=2", "eval_data.count=24")
    capped = ("eval_limit=9", "eval_first=false")
    train(monkeypatch, policy, run, lambda position: (0.0, 1.0), *options, *capped)
    counts = [(line["step"], line["eval/count"]) for line in lines(run) if "eval/count" in line]
    assert counts == [(1, 9), (2, 9)]
    assert "before GRPO" not in (run / "report.md").read_text()

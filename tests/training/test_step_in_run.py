"""Skipped updates, several updates per rollout and refilled groups in whole tiny runs.

Some of the runs are interrupted and resumed.
"""

import gc
from collections import defaultdict

import jax
import numpy as np
import pytest
from tiny_run import BATCH, ScriptedScorer, checkpoint, equal, metrics, train
from tolerances import TOL_COMPLEX

from segr1_jax.errors import UserError
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.runtime.compiled_functions import observed_by

TWICE = "objective.updates_per_rollout=2"
pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("compile_quickly")]

LIVE, DEAD, BROKEN = (0.0, 1.0), (1.0, 1.0), (0.0, float("nan"))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("runs") / "tiny", seed=1, frame=84)


def test_broken_updates_are_skipped_kept_and_end_the_run(policy, tmp_path, monkeypatch):
    """A NaN reward in steps 2, 4 and 5, with two in a row allowed.

    The same command comes to the same end.
    """
    run, folder = tmp_path / "run", tmp_path / "run" / "incidents"

    def reward(position):
        return BROKEN if position // BATCH + 1 in (2, 4, 5) and position % BATCH == 3 else LIVE

    for attempt in range(2):
        with pytest.raises(UserError, match="2 in a row and 3 in 5 steps") as error:
            train(
                monkeypatch,
                policy,
                run,
                reward,
                TWICE,
                "steps=6",
                "guard.in_a_row=2",
                "guard.rate=1",
            )
        assert str(folder) in str(error.value)
        assert [line["skipped_update"] for line in metrics(run)] == [0, 1, 0, 1, 1]
        assert len(list(folder.glob("skipped_*.npz"))) == 3 + attempt
    weights = [checkpoint(run, step)["params"] for step in (1, 2, 3, 4)]
    assert equal(weights[0], weights[1])
    assert not equal(weights[1], weights[2])
    assert equal(weights[2], weights[3])
    assert all(np.isfinite(value).all() for value in weights[3].values())
    assert not (run / "checkpoints" / "5").exists()
    with np.load(sorted(folder.iterdir())[0]) as kept:
        assert (int(kept["step"]), kept["positions"].tolist()) == (2, list(range(8, 16)))
        assert np.isnan(kept["rewards"][3, 1])
        assert np.isnan(kept["advantages"][3]).all()
        assert kept["texts"].shape == (BATCH, 2) == kept["tokens"].shape[:2]


def refill_script(interrupt_at: int | None = None):
    """Step 1 is live; later every third position is dead, and all of 24 to 47, in step 3."""

    def reward(position):
        if position == interrupt_at:
            raise InterruptedError
        return DEAD if position >= 8 and (position % 3 == 0 or 24 <= position < 48) else LIVE

    return reward


def test_refill_and_several_updates_over_an_interruption(policy, tmp_path, monkeypatch):
    options = ("steps=4", "rollout.refill=2", TWICE)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(
        monkeypatch, policy, whole, refill_script(), *options
    )  # its end says that nothing compiled after step 1
    lines = metrics(whole)
    assert [line["position"] for line in lines] == [
        8,
        24,
        48,
        64,
    ]  # one rollout, two, three in vain, two
    assert [line["refilled"] for line in lines] == [0, 3 / 8, 0, 3 / 8]
    assert [line["dead_groups"] for line in lines] == [0, 0, 1, 0]
    assert all(line["sampler_gap"] < TOL_COMPLEX for line in lines), (
        "answers went to other prompts than their own"
    )
    assert all(line["ratio_max"] > 1 for line in lines), (
        "the second update's policy has left the sampler's"
    )
    last = checkpoint(whole, 4)
    assert int(last["train"]["step"]) == 4
    assert {
        int(leaf) for leaf in jax.tree.leaves(last["train"]["opt_state"]) if np.ndim(leaf) == 0
    } == {8}

    with pytest.raises(InterruptedError):
        train(monkeypatch, policy, cut, refill_script(interrupt_at=40), *options)  # inside step 3
    train(monkeypatch, policy, cut, refill_script(), *options)
    assert metrics(cut) == lines
    assert equal(checkpoint(cut, 4)["params"], last["params"])


def test_an_example_that_comes_again_gets_other_answers(policy, tmp_path, monkeypatch):
    """Twice in a batch, and twice more in the refill of its dead groups.

    Four groups, all different.
    """
    found = defaultdict(list)

    class Recorded:
        def __init__(self, submission, samples):
            self.watch, self.of = submission.watch, submission.of
            self.rest, self.samples = submission.send_rest, samples

        def send_rest(self, groups, parts):
            for sample, group in zip(self.samples, groups, strict=True):
                found[sample.example.id].append(tuple(c.token_ids.tobytes() for c in group))
            self.rest(groups, parts)

    class Recording(ScriptedScorer):
        def begin(self, samples):
            return Recorded(super().begin(samples), samples)

    def reward(position):
        return DEAD if position < BATCH else LIVE

    options = ("steps=1", "data.count=4", "rollout.refill=1", "rollout.max_tokens=8")
    train(monkeypatch, policy, tmp_path / "run", reward, *options, scorer=Recording)
    assert [len(groups) for groups in found.values()] == [4] * 4
    assert all(len(set(groups)) == 4 for groups in found.values())


class ArraysBesideGradients:
    """Counts, at every call of the gradient program, the new arrays of the shape of one weight."""

    def __init__(self):
        self.counts = []
        # What earlier tests left alive does not count. Keeping it keeps its addresses in use.
        self.earlier = {id(array): array for array in jax.live_arrays()}

    def begin_step(self, step):
        pass

    def call(self, function, arguments):
        if function.name == "gradient":
            shape = arguments[0].gradient["embed"].shape
            # Cycles (closures over a policy under test) keep arrays until they are collected.
            gc.collect()
            alive = [x for x in jax.live_arrays() if id(x) not in self.earlier]
            self.counts.append(sum(x.shape == shape and not x.is_deleted() for x in alive))
        return function.jitted(*arguments)


def test_one_gradient_lives_however_many_updates(policy, tmp_path, monkeypatch):
    seen = ArraysBesideGradients()
    with observed_by(seen):
        # A checkpoint would hold host copies of the state for a while.
        settings = ("steps=2", "save_every=2", "micro_batches=2")
        several = "objective.updates_per_rollout=3"
        train(monkeypatch, policy, tmp_path / "run", lambda position: LIVE, *settings, several)
    assert len(seen.counts) == 2 * 2 * 3
    # Weights, two moments, reference, gradient.
    assert set(seen.counts) == {5}


@pytest.mark.slow
def test_an_update_past_the_kl_bound_ends_its_rollout(policy, tmp_path, monkeypatch):
    """The first update leaves the reference; the second, past the bound, is skipped."""
    train(
        monkeypatch,
        policy,
        tmp_path / "run",
        lambda position: LIVE,
        "steps=1",
        TWICE,
        "guard.max_kl=1e-9",
    )
    (line,) = metrics(tmp_path / "run")
    assert (line["skipped_update"], line["skipped_total"]) == (1, 1)
    assert line["kl"] > 1e-9
    assert line["sampler_gap"] < TOL_COMPLEX

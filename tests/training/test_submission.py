"""Completions sent for scoring as they finish: each once, each reward at its place."""

import numpy as np
import pytest
from tiny_run import FakeClient, ScriptedScorer, metrics, scripted, small_config, use_one_device

from segr1_jax.data.pipeline import Sample
from segr1_jax.reward.judging import Judged
from segr1_jax.rollout.completions import to_completions
from segr1_jax.rollout.sampler import Samples
from segr1_jax.training.loop import run_grpo
from segr1_jax.training.submission import KnownRewards, Submission
from segr1_jax.types import Example, ParseStatus, Reward

PROMPTS, GROUP, TOKENS, BLOCK = 5, 4, 12, 3
DEAD = (1.0, 1.0)


def spell(ids) -> str:
    return " ".join(map(str, ids.tolist()))


def a_sample(row: int) -> Sample:
    return Sample(row, Example(7 + row, "", np.zeros((1, 1, 3), np.uint8), None), None)


def judged(row: int, number: int) -> Judged:
    return Judged(Reward(10.0 * row + number, 1.0, 0.0, 0.0, ParseStatus.OK), None, None)


class Recorder:
    """A scorer whose rewards name row and number."""

    def __init__(self):
        self.sent, self.collected = [], []

    def submission(self, samples, room=lambda: 1000):
        return Submission(self.send, self.collect, room, samples, lambda drawn: drawn, spell)

    def send(self, answers):
        self.sent.append(answers)
        return len(self.sent) - 1

    def collect(self, number):
        self.collected.append(number)
        return [judged(each.sample.position, each.number) for each in self.sent[number]]


def samples_after(lengths_BG, tokens_BGT, reached: int) -> Samples:
    """What a sampler shows after `reached` tokens; a completion of TOKENS + 1 never finishes."""
    mask_BGT = np.arange(TOKENS) < np.minimum(lengths_BG, reached)[..., None]
    return Samples(
        np.where(mask_BGT, tokens_BGT, 0),
        np.zeros(tokens_BGT.shape, np.float32),
        mask_BGT,
        lengths_BG <= reached,
    )


@pytest.fixture
def drawn():
    random = np.random.default_rng(3)
    lengths_BG = random.integers(1, TOKENS + 2, (PROMPTS, GROUP))
    lengths_BG[2] = TOKENS + 1  # a group without an end
    lengths_BG[0, 1], lengths_BG[4, 3] = 1, TOKENS
    return lengths_BG, random.integers(1, 99, (PROMPTS, GROUP, TOKENS))


def test_each_is_sent_once_with_the_text_of_its_record(drawn):
    recorder = Recorder()
    samples = [a_sample(row) for row in range(PROMPTS)]
    submission = recorder.submission(samples)
    for reached in range(BLOCK, TOKENS, BLOCK):
        submission.watch(samples_after(*drawn, reached))
    early = sum(map(len, recorder.sent))
    assert early == (drawn[0] <= TOKENS - BLOCK).sum() > 0
    groups = to_completions(samples_after(*drawn, TOKENS), range(7, 7 + PROMPTS), spell, 0)
    parts = [np.array([3, 0]), np.array([1, 2, 4])]
    submission.send_rest(groups, np.concatenate(parts))
    assert not recorder.collected
    places = [(each.sample.position, each.number) for part in recorder.sent for each in part]
    assert sorted(places) == [(row, number) for row in range(PROMPTS) for number in range(GROUP)]
    for part in recorder.sent:
        for each in part:
            completion = groups[each.sample.position][each.number]
            assert (each.text, each.finished) == (completion.text, completion.finished)
    for rows in parts:
        assert submission.of(rows) == [
            [judged(row, number) for number in range(GROUP)] for row in rows.tolist()
        ]
    assert sorted(recorder.collected) == list(range(len(recorder.sent))), "collected once"


def test_no_more_are_sent_early_than_there_is_room_for(drawn):
    """What has no room at one block is sent at a later one, or at the end."""
    recorder, rooms = Recorder(), [4, 0, 3]
    submission = recorder.submission(
        [a_sample(row) for row in range(PROMPTS)], iter(rooms).__next__
    )
    sent = []
    for reached in (9, 9, 9):
        submission.watch(samples_after(*drawn, reached))
        sent.append(sum(map(len, recorder.sent)))
    assert (drawn[0] <= 9).sum() > sum(rooms)
    assert sent == [4, 4, 7]
    groups = to_completions(samples_after(*drawn, TOKENS), range(7, 7 + PROMPTS), spell, 0)
    submission.send_rest(groups, np.arange(PROMPTS))
    assert sum(map(len, recorder.sent)) == PROMPTS * GROUP
    assert submission.of(np.array([1])) == [[judged(1, number) for number in range(GROUP)]]


def test_a_row_does_not_wait_for_another(drawn):
    recorder = Recorder()
    samples = [a_sample(row) for row in range(PROMPTS)]
    submission = recorder.submission(samples)
    groups = to_completions(samples_after(*drawn, TOKENS), range(7, 7 + PROMPTS), spell, 0)
    submission.watch(samples_after(*drawn, 9))
    submission.send_rest(groups, np.array([2, 0, 1, 3, 4]))
    assert len(recorder.sent) > PROMPTS, "some of a row early, some late"
    submission.of(np.array([0]))
    waited = [each for number in recorder.collected for each in recorder.sent[number]]
    assert {each.sample.position for each in waited} == {0}


def test_known_rewards_are_not_asked_for_again():
    groups = [[judged(row, 0)] for row in range(3)]
    known = KnownRewards(groups)
    known.send_rest([], np.arange(3))
    assert known.of(np.array([2, 0])) == [groups[2], groups[0]]


class Watched(ScriptedScorer):
    """Counts the completions that are sent, in all and during rollouts."""

    early = late = 0

    def begin(self, samples):
        submission = super().begin(samples)
        plain, scorer = submission.watch, type(self)

        def watch(drawn):
            before = scorer.late
            plain(drawn)
            scorer.early, scorer.late = scorer.early + scorer.late - before, before

        submission.watch = watch
        return submission

    def send(self, ended):
        type(self).late += len(ended)
        return super().send(ended)


class AfterTheRollout(Watched):
    sends_early = False


@pytest.mark.e2e
@pytest.mark.usefixtures("compile_quickly")
def test_a_run_learns_the_same_whenever_completions_are_sent(
    policy_of_many_lengths, tmp_path, monkeypatch
):
    """With a refill, so that several rollouts of a step have rewards."""

    def reward(position: int) -> tuple[float, float]:
        return (0.1 * (position % 5), 0.9) if position % 3 else DEAD

    sizes = ("rollout.max_tokens=80", "micro_batches=2", "eval_max_tokens=4", "steps=3")
    counts, lines = {}, {}
    for scorer in (Watched, AfterTheRollout):
        made = scripted(
            lambda position: (0.1 * (position % 5), 0.9) if position % 3 else DEAD, scorer
        )
        run = tmp_path / scorer.__name__
        use_one_device(monkeypatch)
        config = small_config(policy_of_many_lengths, run, *sizes, "rollout.refill=1")
        run_grpo(config, connect=FakeClient, make_scorer=made)
        counts[scorer], lines[scorer] = (made.early, made.late), metrics(run)
    assert lines[Watched] == lines[AfterTheRollout]
    (early, late), (none, whole) = counts.values()
    assert early > 0 < late
    assert none == 0
    assert early + late == whole

"""While the sidecar makes the masks of a batch, the policy generates the next one."""

import gc
import weakref

import numpy as np
import pytest

from segr1_jax.answer.grammar import parse
from segr1_jax.metrics.held_out_figures import aggregate
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.terms import Terms
from segr1_jax.training.evaluation import Scorer, evaluate
from segr1_jax.types import Completion, Example, Frame, Prompt, Score, ScoreStatus

SIDE = 56
COUNT, ROWS = 7, 2
GOOD = (
    "<think>t</think> <bbox>[{0},2,50,50]</bbox>, <points>[[40,40]]</points>, <labels>[1]</labels>"
)


class Client(RewardClient):
    """Notes the order of calls; the IoU of a mask is the left edge of its box."""

    def __init__(self):
        self.calls, self._requests = [], {}

    def encode(self, image):
        pass

    def submit(self, requests):
        number = len(self._requests)
        self.calls.append(f"submit {number}")
        self._requests[number] = [(float(r.prompts[0].box[0]) / 100, r.mask) for r in requests]
        return number

    def collect(self, number):
        self.calls.append(f"collect {number}")
        return [Score(ScoreStatus.OK, iou, 0.25, mask) for iou, mask in self._requests[number]]


def prompt(index: int) -> Prompt:
    row, frame = np.zeros(1, np.int32), Frame(SIDE, SIDE)
    patches, levels = np.zeros((1, 4, 3), np.uint8), np.zeros((3, 256), np.float32)
    mask = np.zeros((1, 4), bool)
    places = np.zeros((1, 4, 2), np.int32)
    three = np.zeros((3, 1), np.int32)
    return Prompt(index, row, three, 1, row, patches, levels, places, mask, row, frame, frame)


def completion(index: int) -> Completion:
    text = "no answer" if index == 3 else GOOD.format(index + 1)
    nothing = np.zeros(0, np.int32)
    return Completion(index, 0, nothing, nothing.astype(np.float32), True, text, 0)


def test_the_next_batch_is_generated_before_the_scores_are_collected():
    client, alive, most = Client(), [], []

    def batches():
        for start in range(0, COUNT + 2, ROWS):  # the last ones are short and empty
            pairs = []
            for index in range(start, min(start + ROWS, COUNT)):
                image = np.full((SIDE, SIDE, 3), index, np.uint8)
                alive.append(weakref.ref(image))
                mask = np.zeros((SIDE, SIDE), bool)
                mask[: index + 1] = True
                pairs.append((Example(index, f"n{index}", image, mask), prompt(index)))
            gc.collect()
            most.append(sum(image() is not None for image in alive))
            yield pairs
            del pairs

    def answer(prompts):
        client.calls.append(f"generate {sum(c.startswith('generate') for c in client.calls)}")
        return [completion(prompt.example_id) for prompt in prompts]

    scorer = Scorer(client, lambda example: Frame(SIDE, SIDE), "rl", Terms(RewardConfig()))
    found = evaluate(batches(), answer, scorer, COUNT, lambda table: table)
    assert client.calls == [
        *("generate 0", "submit 0", "generate 1", "submit 1", "collect 0"),
        *("generate 2", "submit 2", "collect 1", "generate 3", "submit 3", "collect 2"),
        *("generate 4", "submit 4", "collect 3", "collect 4"),
    ]
    assert max(most) <= 2 * ROWS
    assert [row.example_id for row in found.rows] == list(range(COUNT))
    assert [given.index for given in found.answers] == list(range(COUNT))
    ious = [0 if index == 3 else pytest.approx((index + 1) / 100) for index in range(COUNT)]
    assert [row.iou for row in found.rows] == ious
    assert parse(completion(0).text, Frame(SIDE, SIDE), task="rl")[0] is not None
    assert found.figures == pytest.approx(aggregate(found.rows), nan_ok=True)

"""Own terms of the reward: their values, and their faults."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from segr1_jax.errors import UserError
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.combine import combine
from segr1_jax.reward.config import RewardConfig, RewardWeights
from segr1_jax.reward.judging import AnswerText, collect, submit
from segr1_jax.reward.terms import FAULT_FLOOR, TermFault, Terms
from segr1_jax.types import Answer, Example, Frame, ParseStatus, Score, ScoreStatus

ROOT = Path(__file__).parents[2]
ANSWER = Answer("a", ((1, 2, 5, 6),), ((3, 4), (9, 9)), (1, 0), Frame(28, 28))
MASK = np.zeros((8, 6), bool)
MASK[2:5, 1:4] = True
EXAMPLE = Example(3, "cat.png", np.zeros((8, 6, 3), np.uint8), MASK)
TEXT = "<think>a</think> <bbox>[1,2,5,6]</bbox>, <points>[[3,4]]</points>, <labels>[1]</labels>"


@pytest.fixture
def reward_of(tmp_path):
    """The configuration of a reward with one own term `mine` of this source."""

    def make(source: str, **settings) -> RewardConfig:
        file = tmp_path / "mine.py"
        file.write_text(source)
        terms = ["format", "iou", f"{file}:mine"]
        weights = RewardWeights(own={"mine": 0.5})
        return RewardConfig(terms=terms, weights=weights, **settings)

    return make


def value(reward: RewardConfig, mask=MASK) -> float:
    return Terms(reward).own_values(TEXT, ANSWER, mask, EXAMPLE)["mine"]


def test_a_term_gets_what_it_names(reward_of):
    source = """
import numpy as np

def mine(text, answer, mask, truth, example, scale=2.0):
    assert type(mask) is type(truth) is np.ndarray and mask.dtype == truth.dtype == bool
    assert text.startswith("<think>") and example.name == "cat.png"
    return scale * len(answer.points) + np.float32((mask & truth).sum())
"""
    assert value(reward_of(source)) == 4.0 + 9.0
    assert Terms(reward_of(source)).need_masks


def test_masks_are_sent_only_to_terms_that_name_them(reward_of):
    assert not Terms(reward_of("def mine(answer, truth): return 1\n")).need_masks
    everything = reward_of("def mine(**given): return len(given)\n")
    assert Terms(everything).need_masks
    assert value(everything) == 5


def test_the_mask_has_the_size_of_the_truth(reward_of):
    large = np.ones((16, 12), bool)
    assert value(reward_of("def mine(mask, truth): return mask[truth].sum()\n"), large) == 9


@pytest.mark.parametrize("array", ["mask", "truth", "example.image", "example.mask"])
def test_arrays_are_read_only(reward_of, array):
    with pytest.raises(TermFault, match="read-only"):
        value(reward_of(f"def mine(mask, truth, example):\n    {array}[0] = 1\n    return 1\n"))
    assert EXAMPLE.image.flags.writeable


def test_the_total_adds_the_listed_terms_in_order():
    """The default total has the bits of the formula; a built-in term may be left out."""
    rng = np.random.default_rng(0)
    default = RewardConfig().term_weights
    weights = RewardWeights(own={"mine": -0.3})
    own = RewardConfig(terms=["iou", "a.py:mine"], weights=weights).term_weights
    for _ in range(200):
        iou, s_measure, mine = rng.random(3).tolist()
        score = Score(ScoreStatus.OK, iou, s_measure)
        total = combine(default, ParseStatus.OK, score, {}).total
        assert total == 1.0 + 0.7 * iou + 0.3 * s_measure
        reward = combine(own, ParseStatus.OK, score, {"mine": mine})
        assert reward.total == pytest.approx(0.7 * iou - 0.3 * mine, abs=1e-12)
        assert reward.own == {"mine": mine}
    assert combine(own, ParseStatus.BAD_BOX, None, {}).own == {"mine": 0.0}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 1 / 0", "ZeroDivisionError: division by zero (line 2)"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines (line 2)"),
        ("return float('nan')", "expected a finite number, got nan"),
        ("return float('-inf')", "expected a finite number, got -inf"),
        ("return 10**400", "OverflowError: int too large"),
        ("return None", "expected a finite number, got a NoneType"),
        ("return '1.0'", "expected a finite number, got a str"),
        ("return True", "expected a finite number, got a bool"),
        ("return truth", "expected a finite number, got a ndarray"),
        ("raise SystemExit(0)", "SystemExit: 0 (line 2)"),
    ],
)
def test_a_fault_names_function_and_sample(reward_of, capsys, body, words):
    with pytest.raises(TermFault) as fault:
        value(reward_of(f"def mine(truth):\n    {body}\n"))
    for text in (str(fault.value), capsys.readouterr().err):
        assert "mine.py:mine" in text
        assert "sample cat.png" in text
        assert words in text


@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        # A handler of Exception does not hold the deadline up.
        "while True:\n        try: sum(range(1000))\n        except Exception: pass",
    ],
)
def test_the_deadline_interrupts_python_code(reward_of, body):
    reward = reward_of(f"def mine(truth):\n    {body}\n", term_timeout_s=0.2)
    began = time.monotonic()
    with pytest.raises(TermFault, match=r"no result within reward\.term_timeout_s = 0\.2"):
        value(reward)
    assert time.monotonic() - began < 10
    # The alarm is off, and another term has its whole time.
    assert value(reward_of("def mine(truth): return 1.0\n")) == 1.0
    time.sleep(0.3)


def test_code_that_cannot_be_interrupted_ends_the_process_with_its_stack(tmp_path):
    """It swallows the exception and goes on."""
    (tmp_path / "mine.py").write_text(
        "import time\n"
        "def mine(text):\n"
        "    while True:\n"
        "        try:\n"
        "            time.sleep(9)\n"
        "        except BaseException: pass\n"
    )
    code = """
from segr1_jax.reward import term_deadline
from segr1_jax.reward.config import RewardConfig, RewardWeights
from segr1_jax.reward.terms import Terms
from segr1_jax.types import Example
import numpy as np
term_deadline.GRACE_S = 0.3
weights = RewardWeights(own={"mine": 1.0})
config = RewardConfig(terms=["mine.py:mine"], weights=weights, term_timeout_s=0.1)
example = Example(0, "cat", np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), bool))
Terms(config).own_values("", None, None, example)
"""
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 1
    assert 'mine.py", line' in found.stderr
    assert "in mine" in found.stderr


def test_a_function_that_fails_often_ends_the_run(reward_of, capsys):
    terms = Terms(reward_of("def mine(truth): return 1 / 0\n"))
    for _ in range(FAULT_FLOOR):
        with pytest.raises(TermFault):
            terms.own_values(TEXT, ANSWER, None, EXAMPLE)
    with pytest.raises(UserError, match=rf"mine\.py:mine.*{FAULT_FLOOR + 1} faults in .*cat\.png"):
        terms.own_values(TEXT, ANSWER, None, EXAMPLE)


class Client(RewardClient):
    """Scores with masks where they were asked for; the second request is quarantined."""

    def __init__(self):
        pass

    def submit(self, requests):
        self.requests = list(requests)
        return 0

    def collect(self, ticket):
        return [
            Score(ScoreStatus.QUARANTINED, 0.0, 0.0)
            if index == 1
            else Score(ScoreStatus.OK, 0.5, 0.5, request.mask if request.want_mask else None)
            for index, request in enumerate(self.requests)
        ]


def test_terms_run_when_collected_on_answers_with_a_score(reward_of, capsys):
    source = """
def mine(answer, mask):
    return 1 / len(answer.points[1:]) if answer.thinking and mask.any() else 2
"""
    terms, client = Terms(reward_of(source)), Client()
    texts = [
        AnswerText(EXAMPLE, TEXT.replace("<think>a", "<think>")),
        AnswerText(EXAMPLE, TEXT),
        AnswerText(EXAMPLE, "no answer"),
        AnswerText(EXAMPLE, TEXT),
    ]
    pending = submit(client, texts, lambda _: Frame(28, 28), "rl", need_masks=terms.need_masks)
    assert all(request.want_mask for request in client.requests)
    good, lost, unparsed, failed = collect(client, pending, terms)
    assert good.reward.total == 1.0 + 0.7 * 0.5 + 0.5 * 2
    assert (good.reward.own, good.fault, good.mask) == ({"mine": 2.0}, "", None)
    assert not lost.reward.valid
    assert not lost.fault
    assert (unparsed.reward.total, unparsed.reward.own) == (0.0, {"mine": 0.0})
    assert unparsed.reward.valid
    assert not failed.reward.valid
    assert failed.reward.iou == 0.5
    assert "ZeroDivisionError" in failed.fault
    assert "cat.png" in failed.fault

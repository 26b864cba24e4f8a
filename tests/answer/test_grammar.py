"""The parser against a slow, obviously correct one and against cases written by hand."""

import importlib.util
import time
from collections import Counter
from random import Random

import numpy as np
import pytest
from answer_oracle import FRAME, LONGEST, SNIPPETS, random_text, slow_parse
from hypothesis import given, settings
from hypothesis import strategies as st

import segr1_jax.answer.grammar
from segr1_jax.answer.grammar import AnswerLimits, parse, render, sam_prompts, stray_points
from segr1_jax.types import Answer, Frame, ParseStatus

GOOD = (
    "<think>a fish</think> <bbox>[1,2,30,40]</bbox>, "
    "<points>[[5,6],[7,8]]</points>, <labels>[1,0]</labels>"
)
# Linear time grows by 10 and quadratic time by 100; the remainder is for caches and a busy machine.
MAX_DECADE_GROWTH = 25.0
# Added to every time: texts refused at their first characters take less than the clock resolves.
CLOCK_S = 2e-5
MOST_ROUNDS = 40
LONG = 10_000


@pytest.fixture(scope="module")
def plain_parse():
    """Parser without the run-time type checks of conftest.py, which take longer than parsing."""
    spec = importlib.util.spec_from_file_location("plain_answer", segr1_jax.answer.grammar.__file__)
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module.parse


@st.composite
def answers(draw):
    def box():
        x1, y1 = draw(st.integers(0, FRAME.width - 1)), draw(st.integers(0, FRAME.height - 1))
        return (
            x1,
            y1,
            draw(st.integers(x1 + 1, FRAME.width)),
            draw(st.integers(y1 + 1, FRAME.height)),
        )

    points = draw(
        st.lists(
            st.tuples(st.integers(0, FRAME.width), st.integers(0, FRAME.height)),
            min_size=1,
            max_size=5,
        )
    )
    labels = draw(st.lists(st.integers(0, 1), min_size=len(points), max_size=len(points)))
    thinking = draw(st.text(max_size=20).filter(lambda t: "think>" not in t))
    return Answer(
        thinking,
        tuple(box() for _ in range(draw(st.integers(1, 3)))),
        tuple(points),
        tuple(labels),
        FRAME,
    )


@st.composite
def mutated(draw):
    text = render(draw(answers()))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text)))
        text = (
            text[:start] + draw(st.sampled_from(SNIPPETS)) + text[start + draw(st.integers(0, 3)) :]
        )
    return text


@given(answers())
def test_round_trip(answer):
    assert parse(render(answer), FRAME) == (answer, ParseStatus.OK)


@given(answers())
def test_points_only_round_trip(answer):
    points_only = Answer("", (), answer.points, answer.labels, FRAME)
    assert parse(render(points_only, task="prerl"), FRAME, task="prerl") == (
        points_only,
        ParseStatus.OK,
    )


@settings(max_examples=1000)
@given(mutated())
def test_agrees_with_the_slow_parser(text):
    answer, status = parse(text, FRAME)
    assert answer == slow_parse(text, FRAME)
    assert (answer is None) == (status is not ParseStatus.OK)


@pytest.mark.parametrize(
    ("count", "seed"),
    [
        pytest.param(100_000, 0, id="100k"),
        pytest.param(1_000_000, 1, id="1M", marks=pytest.mark.slow),
    ],
)
def test_agrees_with_the_slow_parser_on_many_answers(count, seed, plain_parse):
    rng, met = Random(seed), Counter()
    for _ in range(count):
        text, task, limits = random_text(rng)
        answer, status = plain_parse(text, FRAME, task=task, limits=limits)
        assert answer == slow_parse(text, FRAME, task, limits), (text, task, limits)
        assert (answer is None) == (status is not ParseStatus.OK)
        met[status] += 1
        met["long answers"] += answer is not None and len(text) > LONG
    assert set(ParseStatus) <= set(met)  # every way to fail was met, and enough that is right
    assert met[ParseStatus.OK] > count / 4
    assert met["long answers"] > count / 10_000


@given(st.text(), st.sampled_from(["rl", "prerl", "sft"]))
def test_never_raises(text, task):
    parse(text, FRAME, task=task)


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ("", "", ParseStatus.OK),
        (", <", " <", ParseStatus.OK),
        ("[1,2,30,40]", "[ 1 ,2\n30, 40 ]", ParseStatus.OK),
        ("a fish", "it is <bbox>[9,9,9,9]</bbox>", ParseStatus.OK),
        ("<think>", "I think", ParseStatus.MISSING_THINK),
        ("a fish", "a <think> fish", ParseStatus.BAD_THINK),
        ("</think>", "", ParseStatus.UNFINISHED),
        ("<bbox>", "box ", ParseStatus.MISSING_BOX),
        ("[1,2,30,40]", "[1,2,30]", ParseStatus.BAD_BOX),
        ("[1,2,30,40]", "[1,2,30,40,50]", ParseStatus.BAD_BOX),
        ("[1,2,30,40]", "[1,2,1,40]", ParseStatus.BAD_BOX),
        ("[1,2,30,40]", "[-1,2,30,40]", ParseStatus.BAD_BOX),
        ("[1,2,30,40]", "[1,2,30,4.5]", ParseStatus.BAD_BOX),
        ("[1,2,30,40]", "[1,2,30,141]", ParseStatus.OUT_OF_FRAME),
        ("[1,2,30,40]", "[1,2,168,140]", ParseStatus.OK),
        ("</bbox>", "", ParseStatus.BAD_BOX),
        ("<points>", "", ParseStatus.MISSING_POINTS),
        ("[[5,6],[7,8]]", "[]", ParseStatus.BAD_POINTS),
        ("[[5,6],[7,8]]", "[[5,6],[7]]", ParseStatus.BAD_POINTS),
        ("[[5,6],[7,8]]", "[[5,6],[7,8],]", ParseStatus.BAD_POINTS),
        ("[7,8]", "[7,9" + "9" * 40 + "]", ParseStatus.OUT_OF_FRAME),
        (",[7,8]", ",[7,8]" * 70, ParseStatus.TOO_MANY),
        ("<labels>", "<label>", ParseStatus.MISSING_LABELS),
        ("[1,0]", "[1,2]", ParseStatus.BAD_LABELS),
        ("[1,0]", "[1]", ParseStatus.LABELS_MISMATCH),
        ("</labels>", "</lab", ParseStatus.UNFINISHED),
        ("0]</labels>", "", ParseStatus.UNFINISHED),
        ("</labels>", "</labels> done", ParseStatus.TRAILING_TEXT),
        ("a fish", "a" * 9000, ParseStatus.TOO_LONG),
    ],
)
def test_each_rejection_has_its_name(old, new, status):
    answer, got = parse(GOOD.replace(old, new, 1), FRAME)
    assert got is status
    assert (answer is not None) == (status is ParseStatus.OK)


def test_every_other_status_is_covered():
    assert parse(GOOD, FRAME, limits=AnswerLimits(max_boxes=0))[1] is ParseStatus.TOO_MANY
    assert parse("", FRAME)[1] is ParseStatus.MISSING_THINK


BEFORE = {
    "think": "<think>",
    "boxes": "<think></think>",
    "box": "<think></think><bbox>[",
    "points": "<think></think><bbox>[1,2,3,4]</bbox><points>[",
    "labels": "<think></think><bbox>[1,2,3,4]</bbox><points>[[1,2]]</points><labels>[",
}


@pytest.mark.parametrize(
    ("place", "piece"),
    [
        *(("think", piece) for piece in ("a", "<think", "</think", "<think>", "<", "\n")),
        *(
            ("boxes", piece)
            for piece in (
                " ",
                "<bbox>[1,2,3,4]</bbox>",
                "<bbox>[1,2,3,4]</bbox>\n,  ",
                "<bbox>",
                "<bbox",
            )
        ),
        *(("box", piece) for piece in ("9", "0", " ", "1 ", "1,", "[", "[1,")),
        *(("points", piece) for piece in ("[1,2]", "[1 , 2] , ", "[[", "[1,", "[0000", "]")),
        *(("labels", piece) for piece in ("1,", "1 ", "0", " \t", "1,,")),
    ],
)
def test_time_grows_linearly(place, piece, plain_parse):
    limits = AnswerLimits(max_chars=10**6, max_boxes=10**6, max_points=10**6)

    texts = {
        size: (BEFORE[place] + piece * (size // len(piece)))[:size]
        for size in (1000, 10_000, LONGEST)
    }
    least = dict.fromkeys(texts, float("inf"))
    # All sizes in turn, so that a slow phase of the machine slows all of them; more rounds only
    # while the least times are not proportional.
    for _ in range(MOST_ROUNDS):
        for size, text in texts.items():
            repeats = LONGEST // size
            start = time.process_time()
            for _ in range(repeats):
                plain_parse(text, FRAME, limits=limits)
            least[size] = min(least[size], (time.process_time() - start) / repeats + CLOCK_S)
        growth = least[10_000] / least[1000], least[LONGEST] / least[10_000]
        if max(growth) <= MAX_DECADE_GROWTH:
            return
    raise AssertionError(f"ten times the text takes {growth} times as long")


def test_points_go_to_the_boxes_that_hold_them():
    answer = Answer(
        "",
        ((0, 0, 10, 10), (10, 10, 20, 20)),
        ((10, 10), (3, 4), (15, 5)),
        (1, 0, 1),
        Frame(100, 50),
    )
    first, second = sam_prompts(answer, native=Frame(200, 200))
    np.testing.assert_array_equal(first.box, [0, 0, 20, 40])
    np.testing.assert_array_equal(first.points, [[20, 40], [6, 16]])
    np.testing.assert_array_equal(first.labels, [1, 0])
    np.testing.assert_array_equal(second.points, [[20, 40]])
    assert stray_points(answer) == 1


def test_points_without_boxes_are_one_prompt():
    answer = Answer("", (), ((1, 2), (3, 4)), (1, 0), Frame(10, 10))
    (prompt,) = sam_prompts(answer, native=Frame(20, 30))
    assert prompt.box is None
    np.testing.assert_array_equal(prompt.points, [[2, 6], [6, 12]])
    assert stray_points(answer) == 0

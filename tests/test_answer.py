"""The parser against a slow, obviously correct one (regular expressions over the whole text) and hand-written cases."""

import re
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segr1_jax.answer import AnswerLimits, parse, render, sam_prompts, stray_points
from segr1_jax.types import Answer, Frame, ParseStatus

FRAME = Frame(168, 140)
GOOD = "<think>a fish</think> <bbox>[1,2,30,40]</bbox>, <points>[[5,6],[7,8]]</points>, <labels>[1,0]</labels>"
MAX_DECADE_GROWTH = 12.0  # linear is 10; the rest is timer noise

S = r"[ \t\r\n]*"
SEP = rf"{S},?{S}"
NUM = r"[0-9]+"
# Two numbers in a row need a comma or a space between them, else they are one number.
APART = rf"(?:{S},{S}|[ \t\r\n]+)"
PAIR = rf"\[{S}{NUM}{APART}{NUM}{S}\]"
BOX = rf"<bbox>{S}\[{S}{NUM}{APART}{NUM}{APART}{NUM}{APART}{NUM}{S}\]{S}</bbox>"
POINTS = rf"<points>{S}\[{S}{PAIR}(?:{SEP}{PAIR})*{S}\]{S}</points>"
LABELS = rf"<labels>{S}\[{S}0*[01](?:{APART}0*[01])*{S}\]{S}</labels>"
THINK = r"<think>(?P<think>(?:(?!</?think>)[\s\S])*)</think>"
WHOLE = re.compile(rf"{S}{THINK}{SEP}(?P<boxes>{BOX}(?:{SEP}{BOX})*){SEP}(?P<points>{POINTS}){SEP}(?P<labels>{LABELS}){S}")


def slow_parse(text, frame):
    match = WHOLE.fullmatch(text)
    if match is None:
        return None
    numbers = [int(n) for n in re.findall(NUM, match["boxes"])]
    boxes = tuple(tuple(numbers[i : i + 4]) for i in range(0, len(numbers), 4))
    numbers = [int(n) for n in re.findall(NUM, match["points"])]
    points = tuple(tuple(numbers[i : i + 2]) for i in range(0, len(numbers), 2))
    labels = tuple(int(n) for n in re.findall(NUM, match["labels"]))
    inside = all(x <= frame.width and y <= frame.height for x, y in [*points, *(b[:2] for b in boxes), *(b[2:] for b in boxes)])
    sane = all(x1 < x2 and y1 < y2 for x1, y1, x2, y2 in boxes) and len(labels) == len(points)
    return Answer(match["think"], boxes, points, labels, frame) if inside and sane else None


@st.composite
def answers(draw):
    def box():
        x1, y1 = draw(st.integers(0, FRAME.width - 1)), draw(st.integers(0, FRAME.height - 1))
        return x1, y1, draw(st.integers(x1 + 1, FRAME.width)), draw(st.integers(y1 + 1, FRAME.height))

    points = draw(st.lists(st.tuples(st.integers(0, FRAME.width), st.integers(0, FRAME.height)), min_size=1, max_size=5))
    labels = draw(st.lists(st.integers(0, 1), min_size=len(points), max_size=len(points)))
    thinking = draw(st.text(max_size=20).filter(lambda t: "think>" not in t))
    return Answer(thinking, tuple(box() for _ in range(draw(st.integers(1, 3)))), tuple(points), tuple(labels), FRAME)


SNIPPETS = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<bbox>",
        "</bbox>",
        "[",
        "]",
        ",",
        " ",
        "\n",
        "0",
        "1",
        "9",
        "99999",
        "-",
        ".",
        "<points>",
        "</labels>",
        "²",
        "",
    ]
)


@st.composite
def mutated(draw):
    text = render(draw(answers()))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text)))
        text = text[:start] + draw(SNIPPETS) + text[start + draw(st.integers(0, 3)) :]
    return text


@given(answers())
def test_round_trip(answer):
    assert parse(render(answer), FRAME) == (answer, ParseStatus.OK)


@given(answers())
def test_points_only_round_trip(answer):
    points_only = Answer("", (), answer.points, answer.labels, FRAME)
    assert parse(render(points_only, task="prerl"), FRAME, task="prerl") == (points_only, ParseStatus.OK)


@settings(max_examples=1000)
@given(mutated())
def test_agrees_with_the_slow_parser(text):
    answer, status = parse(text, FRAME)
    assert answer == slow_parse(text, FRAME)
    assert (answer is None) == (status is not ParseStatus.OK)


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


@pytest.mark.parametrize("piece", ["9", "[", "[1,", "<think>", "<bbox>", "1 "])
def test_time_grows_linearly(piece):
    def seconds(size):
        text = GOOD.split("[1,2")[0] + piece * (size // len(piece))
        runs = []
        for _ in range(5):
            start = time.process_time()
            parse(text, FRAME, limits=AnswerLimits(max_chars=10**7, max_points=10**7))
            runs.append(time.process_time() - start)
        return max(min(runs), 1e-3)  # below a millisecond the clock decides

    assert seconds(1_000_000) / seconds(100_000) <= MAX_DECADE_GROWTH


def test_points_go_to_the_boxes_that_hold_them():
    answer = Answer("", ((0, 0, 10, 10), (10, 10, 20, 20)), ((10, 10), (3, 4), (15, 5)), (1, 0, 1), Frame(100, 50))
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

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segr1_jax.answer.coordinates import given_answer, move_coordinates
from segr1_jax.answer.grammar import parse, render
from segr1_jax.errors import UserError
from segr1_jax.types import Answer, Frame, ParseStatus

NATIVE, MODEL = Frame(width=1000, height=500), Frame(100, 100)
TEXT = (
    "<think>Two fish (see [100, 250]) of size 40, the left one in [0,50,400.5,500].</think> "
    "<bbox>[0,50,400,500]</bbox>, <points>[[100,250],[996,499]]</points>, <labels>[1,0]</labels>"
)
MOVED = (
    "<think>Two fish (see [10, 50]) of size 40, the left one in [0,10,40,100].</think> "
    "<bbox>[0,10,40,100]</bbox>, <points>[[10,50],[100,100]]</points>, <labels>[1,0]</labels>"
)


def test_answer_and_thinking_move_together_and_labels_stay():
    assert move_coordinates(TEXT, NATIVE, MODEL) == MOVED
    assert given_answer(f" {TEXT}\n", NATIVE, MODEL, task="rl", name="fish.jpg") == MOVED


def test_what_is_no_coordinate_stays():
    text = "it has [3] fins, [1,2,3] spots, (a, b) and 4, 5 stripes"
    assert move_coordinates(text, NATIVE, MODEL) == text


def test_an_answer_that_does_not_survive_is_named():
    # 0.3 pixels wide.
    thin = (
        "<think>x</think> <bbox>[0,0,3,500]</bbox>, "
        "<points>[[1,250]]</points>, <labels>[1]</labels>"
    )
    with pytest.raises(UserError, match=r"fish\.jpg.*bad_box.*answer_side"):
        given_answer(thin, NATIVE, MODEL, task="rl", name="fish.jpg")


@given(st.text(alphabet="<>[](),. 0123456789labels/bx", max_size=200))
def test_the_same_frame_keeps_every_whole_number(text):
    whole, frame = text.replace(".", ""), Frame(10**6, 10**6)
    numbers = [int(number) for number in re.findall(r"\d+", whole)]
    assert [
        int(number) for number in re.findall(r"\d+", move_coordinates(whole, frame, frame))
    ] == numbers


@given(st.integers(1, 40), st.integers(1, 40))
def test_there_and_back(x, y):
    answer = Answer("here", ((x, y, x + 9, y + 5),), ((x + 1, y + 2),), (1,), Frame(56, 56))
    larger = move_coordinates(render(answer), Frame(56, 56), Frame(560, 280))
    assert parse(move_coordinates(larger, Frame(560, 280), Frame(56, 56)), Frame(56, 56)) == (
        answer,
        ParseStatus.OK,
    )

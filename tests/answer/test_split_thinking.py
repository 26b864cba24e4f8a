"""The reasoning of any text apart from its answer, for people to read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segr1_jax.answer.grammar import parse, split_thinking
from segr1_jax.types import Frame

TAGS = st.sampled_from(["<think>", "</think>", "<bbox>", "[1,2,3,4]", " ", "fish"])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<think>a fish</think> <bbox>", ("a fish", "<bbox>")),
        (" <think> a </think>b</think>", ("a", "b</think>")),
        ("<think>cut", ("cut", "")),
        ("fish <think>a</think>", ("", "fish <think>a</think>")),
        ("", ("", "")),
    ],
)
def test_parts(text, parts):
    assert split_thinking(text) == parts


@given(st.lists(TAGS, max_size=12).map("".join))
def test_no_words_are_lost(text):
    kept = "".join(split_thinking(text)).replace("<think>", "").replace("</think>", "")
    without_tags = text.replace("<think>", "").replace("</think>", "")
    assert kept.replace(" ", "") == without_tags.replace(" ", "")


def test_it_agrees_with_the_parser():
    text = "<think> a fish </think> <bbox>[1,2,30,40]</bbox><points>[[5,6]]</points>"
    answer, _ = parse(f"{text}<labels>[1]</labels>", Frame(56, 56))
    assert split_thinking(text)[0] == answer.thinking.strip()

"""Cards of samples: hits, misses and false alarms in words, thinking apart, faults in words."""

import re

import numpy as np

from segr1_jax.metrics.sample_cards import ReportSample, ShownAnswer, sample_card

IMAGE = np.zeros((400, 800, 3), np.uint8)
TRUTH, MASK = np.zeros((400, 800), bool), np.zeros((400, 800), bool)
TRUTH[100:200, 100:300] = True  # 20,000 pixels
MASK[100:200, 200:350] = True  # 10,000 hits, 5,000 false alarms, 10,000 misses
TEXT = "<think>a fish, left</think> <bbox>[1,2,3,4]</bbox>"


def card(**changes) -> str:
    answer = ShownAnswer(TEXT, "ok", 0.4, MASK)
    return sample_card(ReportSample("a", None, answer, IMAGE, TRUTH, **changes))


def test_shares_are_of_the_union_and_the_hits_are_the_iou():
    assert "hit 40%, miss 40%, false alarm 20%" in card()


def test_thinking_is_apart_from_the_tags():
    texts = re.findall(r"<dt>(.*?)</dt><dd[^>]*>(.*?)</dd>", card())
    assert texts == [
        ("Thinking", "a fish, left"),
        ("Answer", "&lt;bbox&gt;[1,2,3,4]&lt;/bbox&gt;"),
    ]


def test_before_and_after_stand_side_by_side():
    text = card(before=ShownAnswer("<bbox>", "missing_think", 0.0), rank="worst")
    assert re.findall(r'<figure class="(\w+)">', text) == ["image", "before", "after"]
    assert "no mask: missing_think" in text
    assert "IoU 0.000 → 0.400" in text
    assert '<span class="rank">worst</span>' in text
    assert "does not begin with its reasoning" in text


def test_a_sample_without_a_truth_has_no_shares_and_no_iou():
    text = sample_card(ReportSample("a", None, ShownAnswer(TEXT, "ok", None, MASK), IMAGE))
    assert re.findall(r'<figure class="(\w+)">', text) == ["image", "prediction"]
    assert "hit" not in text
    assert "IoU" not in text


def test_empty_masks_of_an_empty_truth_have_words():
    empty = np.zeros_like(TRUTH)
    answer = ShownAnswer(TEXT, "ok", 1.0, empty)
    assert "both empty" in sample_card(ReportSample("a", None, answer, IMAGE, empty))

"""What the head of a report says about an evaluation before and after training."""

import math

import numpy as np
import pytest

from segr1_jax.metrics.held_out_figures import EvalRow, aggregate
from segr1_jax.metrics.outcome import NO_BEFORE, outcome
from segr1_jax.metrics.paired_rows import (
    best_median_worst,
    gain,
    of_every_quality,
    paired_rows,
)
from segr1_jax.types import ParseStatus

TRAINING = "9 steps of GRPO on photos"
NOISE = np.random.default_rng(0).normal(0, 0.01, 40)
BEFORE = np.linspace(0.1, 0.9, 40)


def rows(ious, parse: ParseStatus = ParseStatus.OK) -> list[EvalRow]:
    return [
        EvalRow(index, f"photo {index}", "text", parse, float(iou))
        for index, iou in enumerate(ious)
    ]


def found(before: list[EvalRow], after: list[EvalRow]):
    figures = aggregate(before) if before else None
    return outcome(TRAINING, figures, aggregate(after), paired_rows(before, after))


@pytest.mark.parametrize(("shift", "word"), [(0.05, "raised"), (-0.05, "lowered")])
def test_a_gain_is_compared_with_the_error_of_the_differences(shift, word):
    """The shift is clear only beside the paired error, a tenth of that of the means."""
    after = BEFORE + shift + NOISE
    head = found(rows(BEFORE), rows(after))
    error = np.std(after - BEFORE, ddof=1) / math.sqrt(40)
    assert abs(shift) < np.std(BEFORE, ddof=1) / math.sqrt(40) * 2
    by = f"({np.mean(after - BEFORE):+.3f} ± {error:.3f})"
    assert f"{word} the mean held-out IoU from 0.500 to {after.mean():.3f} {by}" in head.sentence
    (figure,) = [figure for figure in head.figures if figure.label == "gain"]
    assert figure.value == f"{np.mean(after - BEFORE):+.3f}"
    assert figure.note == f"± {error:.3f}, paired"


def test_noise_is_no_gain():
    assert "made no clear difference" in found(rows(BEFORE), rows(BEFORE + NOISE)).sentence
    assert "made no clear difference" in found(rows(BEFORE), rows(BEFORE)).sentence


def test_without_an_evaluation_before_there_is_no_gain():
    head = found([], rows(BEFORE))
    assert head.sentence == f"After {TRAINING}, the mean held-out IoU is 0.500 on 40 images."
    assert NO_BEFORE in head.notes
    assert not [figure for figure in head.figures if figure.label == "gain"]


def test_a_run_without_a_valid_answer_says_so_and_why():
    after = [*rows([0] * 3, ParseStatus.UNFINISHED), *rows([0], ParseStatus.BAD_BOX)]
    head = found(rows(BEFORE), after)
    assert "none of the 4 held-out answers is valid" in head.sentence
    assert "(3 times): the answer ends before it is complete" in head.sentence


def test_one_sample_has_no_error():
    head = found(rows([0.2]), rows([0.4]))
    assert "was 0.200 before and is 0.400 after" in head.sentence
    assert "nan" not in repr(head)


def test_shares_near_none_and_all_are_not_rounded_to_them():
    after = [*rows([0.5] * 499), EvalRow(499, "x", "", ParseStatus.BAD_BOX)]
    assert [f.value for f in found([], after).figures if f.label == "valid answers"] == ["99.8%"]


def test_rows_of_other_samples_are_not_paired():
    """A resumed run with another eval_limit has other samples at the same ids."""
    before = rows([0.1, 0.2, 0.3])
    moved = [EvalRow(0, "photo 0", "", ParseStatus.OK, 0.5), *rows([0, 0.9])[1:]]
    moved[1] = EvalRow(1, "photo 2", "", ParseStatus.OK, 0.9)
    pairs = paired_rows(before, moved)
    assert [pair.before and pair.before.iou for pair in pairs] == [0.1, None]
    assert gain(pairs).count == 1
    head = outcome(TRAINING, aggregate(before), aggregate(moved), pairs)
    assert any("1 samples with answers before and after" in note for note in head.notes)
    assert gain(paired_rows([], moved)) is None


def test_best_median_worst_and_samples_of_every_quality():
    pairs = paired_rows([], rows([0.3, 0.9, 0.1, 0.5, 0.7]))
    named = {name: pair.after.iou for name, pair in best_median_worst(pairs).items()}
    assert named == {"best": 0.9, "median": 0.5, "worst": 0.1}
    assert [pair.after.iou for pair in of_every_quality(pairs, 3)] == [0.9, 0.5, 0.1]
    assert len(of_every_quality(pairs, 60)) == 5
    assert best_median_worst(pairs[:2]) == {}
    assert best_median_worst(paired_rows([], rows([0, 0, 0]))) == {}
    assert of_every_quality([], 60) == []

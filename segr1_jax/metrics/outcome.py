"""What training achieved on the held-out set, in words and figures: the head of a verdict."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from segr1_jax.metrics.paired_rows import Gain, Pair, gain
from segr1_jax.metrics.status_meanings import meaning
from segr1_jax.metrics.verdict import Figure
from segr1_jax.types import ParseStatus

# A difference of fewer standard errors is not called one.
CLEAR = 2.0
HOW_TO_READ = (
    "IoU is the area that mask and truth share, divided by the area that they cover together: 0 is "
    "no overlap, 1 a perfect mask; an answer that is not valid has 0. ± is the standard error over "
    "the samples."
)
NO_BEFORE = "The weights were not evaluated before training, so there is no gain to show."


class Outcome(NamedTuple):
    """The result in one sentence, the figures behind it, and notes on how to read them."""

    sentence: str
    figures: list[Figure]
    notes: list[str]


def outcome(
    training: str,
    before: Mapping[str, float] | None,
    after: Mapping[str, float],
    pairs: Sequence[Pair],
) -> Outcome:
    """Return the outcome of `training`, such as "400 steps of SFT on photos.jsonl".

    `before` and `after` are figures of evaluations (`metrics.held_out_figures.aggregate`).
    """
    change = gain(pairs) if before else None
    notes = [HOW_TO_READ, *([] if before else [NO_BEFORE]), *_missing_pairs(change, after)]
    figures = [
        *([Figure("held-out IoU before", *_mean(before, "iou"))] if before else []),
        Figure("held-out IoU after", *_mean(after, "iou")),
        *([_change_figure(change)] if change else []),
        Figure("valid answers", _valid(before, after)),
    ]
    return Outcome(_sentence(training, before, after, change, pairs), figures, notes)


def _sentence(
    training: str,
    before: Mapping[str, float] | None,
    after: Mapping[str, float],
    change: Gain | None,
    pairs: Sequence[Pair],
) -> str:
    count, iou = f"{after['count']:.0f}", f"{after['iou']:.3f}"
    if not after["format"]:
        return f"After {training}, none of the {count} held-out answers is valid{_fault(pairs)}."
    if before is None:
        return f"After {training}, the mean held-out IoU is {iou} on {count} images."
    then = f"the mean held-out IoU was {before['iou']:.3f} before and is {iou} after"
    if change is None or not math.isfinite(change.error):
        return f"{training}: {then}."
    by = f"({change.iou:+.3f} ± {change.error:.3f})"
    if abs(change.iou) < CLEAR * change.error or not change.iou:
        return f"{training} made no clear difference: {then} {by}, on {count} images."
    verb = "raised" if change.iou > 0 else "lowered"
    start = f"from {before['iou']:.3f} to {iou}"
    return f"{training} {verb} the mean held-out IoU {start} {by}, on {count} images."


def _fault(pairs: Sequence[Pair]) -> str:
    statuses = Counter(pair.after.parse for pair in pairs if pair.after.parse is not ParseStatus.OK)
    if not statuses:
        return ""
    (status, count), *_ = statuses.most_common(1)
    return f"; the most frequent fault ({count} times): {meaning(status.value)}"


def _change_figure(change: Gain) -> Figure:
    note = f"± {change.error:.3f}, paired" if math.isfinite(change.error) else ""
    return Figure("gain", f"{change.iou:+.3f}", note)


def _missing_pairs(change: Gain | None, after: Mapping[str, float]) -> list[str]:
    if change is None or change.count == after["count"]:
        return []
    return [f"The gain is that of the {change.count} samples with answers before and after."]


def _mean(figures: Mapping[str, float], name: str) -> tuple[str, str]:
    error = figures.get(f"{name}_se", math.nan)
    return f"{figures[name]:.3f}", f"± {error:.3f}" if math.isfinite(error) else ""


def _valid(before: Mapping[str, float] | None, after: Mapping[str, float]) -> str:
    shares = [figures["format"] for figures in (before, after) if figures]
    return " → ".join(percent(share) for share in shares)


def percent(share: float) -> str:
    """Return a share in percent that says 0% and 100% only of none and of all."""
    rounded = round(100 * share)
    return f"{share:.1%}" if rounded in (0, 100) and share not in (0, 1) else f"{rounded}%"

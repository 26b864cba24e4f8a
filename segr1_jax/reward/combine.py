"""The reward of one completion from its parse status, its mask score and its own terms."""

import math
from collections.abc import Mapping

from segr1_jax.reward.term_entries import BUILT_IN
from segr1_jax.types import ParseStatus, Reward, Score, ScoreStatus


def combine(
    weights: Mapping[str, float],
    parse: ParseStatus,
    score: Score | None,
    own: Mapping[str, float] | None,
) -> Reward:
    """Return the sum of the terms of `weights`, in their order, times their weights.

    By default that is format * (0 or 1) + iou * IoU + s_measure * S (paper: 1, 0.7, 0.3). `own` has
    the values of own terms (reward/terms.py), None where one of them failed.

    A text that does not parse gets 0: that is a fault of the policy. A missing score is a fault of
    the sidecar, a missing value one of a function: both make the reward invalid, and the completion
    is dropped from its group. `score` is None exactly where the text did not parse.

    Example:
        >>> score = Score(ScoreStatus.OK, iou=0.5, s_measure=0.6)
        >>> combine({"format": 1.0, "iou": 0.7, "s_measure": 0.3}, ParseStatus.OK, score, {}).total
        1.53
    """
    names = [name for name in weights if name not in BUILT_IN]
    if parse is not ParseStatus.OK:
        return Reward(0.0, 0.0, 0.0, 0.0, parse, own=dict.fromkeys(names, 0.0))
    lost = dict.fromkeys(names, math.nan)
    if score is None or score.status is not ScoreStatus.OK:
        return Reward(0.0, 1.0, 0.0, 0.0, parse, valid=False, own=lost)
    if own is None:
        return Reward(0.0, 1.0, score.iou, score.s_measure, parse, valid=False, own=lost)
    values = {"format": 1.0, "iou": score.iou, "s_measure": score.s_measure, **own}
    total = 0.0
    # Not sum(), which compensates rounding since Python 3.12.
    for name, weight in weights.items():
        total += weight * values[name]
    return Reward(total, 1.0, score.iou, score.s_measure, parse, own=own)

"""The reward of one completion from its parse status and mask score."""

from segr1_jax.reward.config import RewardWeights
from segr1_jax.types import ParseStatus, Reward, Score, ScoreStatus


def combine(weights: RewardWeights, parse: ParseStatus, score: Score | None) -> Reward:
    """Return total = format * (0 or 1) + iou * IoU + s_measure * S (paper: 1, 0.7, 0.3).

    A text that does not parse gets 0: that is a fault of the policy. A missing score is a fault of
    the sidecar and makes the reward invalid: the completion is dropped from its group. `score` is
    None exactly where the text did not parse.

    Example:
        >>> score = Score(ScoreStatus.OK, iou=0.5, s_measure=0.6)
        >>> combine(RewardWeights(), ParseStatus.OK, score).total
        1.53
    """
    if parse is not ParseStatus.OK:
        return Reward(total=0.0, format=0.0, iou=0.0, s_measure=0.0, parse=parse)
    if score is None or score.status is not ScoreStatus.OK:
        return Reward(total=0.0, format=1.0, iou=0.0, s_measure=0.0, parse=parse, valid=False)
    total = weights.format + weights.iou * score.iou + weights.s_measure * score.s_measure
    return Reward(total=total, format=1.0, iou=score.iou, s_measure=score.s_measure, parse=parse)

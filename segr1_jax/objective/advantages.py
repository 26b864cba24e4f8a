"""Group-relative advantages (numpy).

Shape legend: B prompts; G completions per prompt; n valid completions of one group.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

EPSILON = 1e-4  # added to the deviation, as in the paper

# What advantages are divided by. std: GRPO and Seg-R1. none: Dr.GRPO (arXiv 2503.20783), which
# gives groups of nearly equal rewards no larger weight.
SCALES: dict[str, Callable[[Float[np.ndarray, " n"]], float]] = {
    "std": lambda rewards: rewards.std(ddof=1) + EPSILON,
    "none": lambda rewards: 1.0,
}


def group_advantages(
    rewards_BG: Float[np.ndarray, "B G"], valid_BG: Bool[np.ndarray, "B G"], scale: str = "std"
) -> Float[np.ndarray, "B G"]:
    """Return A = (r - mean) / (std_ddof1 + 1e-4) over the valid completions of each group (Seg-R1).

    With `scale` none, A = r - mean. Advantages are exactly 0 in a group whose valid rewards are all
    equal; this is tested on the rewards, because rounding makes a computed deviation non-zero.
    Invalid completions, and groups with fewer than two valid ones, have advantage 0.

    Example:
        >>> group_advantages(np.array([[1.0, 2.0, 3.0]]), np.ones((1, 3), bool)).round(4)
        array([[-0.9999,  0.    ,  0.9999]])
    """
    advantages = np.zeros(rewards_BG.shape, np.float64)
    for group, (rewards, valid) in enumerate(zip(rewards_BG, valid_BG, strict=True)):
        kept = rewards[valid].astype(np.float64)
        if len(kept) >= 2 and np.any(kept != kept[0]):
            advantages[group, valid] = (kept - kept.mean()) / SCALES[scale](kept)
    return advantages


def completion_weights(valid_BG: Bool[np.ndarray, "B G"]) -> Float[np.ndarray, "B G"]:
    """Return the weight of each completion in the batch mean.

    It is 1 for a valid completion of a group with at least two valid ones, else 0.
    """
    return (valid_BG & (valid_BG.sum(axis=1, keepdims=True) >= 2)).astype(np.float64)


def dead_groups(
    rewards_BG: Float[np.ndarray, "B G"], valid_BG: Bool[np.ndarray, "B G"]
) -> Bool[np.ndarray, " B"]:
    """Mark the groups without advantage: fewer than two valid completions, or equal rewards."""
    return ~group_advantages(rewards_BG, valid_BG).any(axis=1)

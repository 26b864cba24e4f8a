"""Group-relative advantages (numpy). Shape legend: B prompts; G completions per prompt."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

EPSILON = 1e-4  # the paper's guard in the denominator

SCALES: dict[str, Callable[[Float[np.ndarray, " n"]], float]] = {
    "std": lambda rewards: rewards.std(ddof=1) + EPSILON,  # GRPO, Seg-R1
    "none": lambda rewards: (
        1.0
    ),  # Dr.GRPO (arXiv 2503.20783): no weight for groups that happen to agree
}


def group_advantages(
    rewards_BG: Float[np.ndarray, "B G"], valid_BG: Bool[np.ndarray, "B G"], scale: str = "std"
) -> Float[np.ndarray, "B G"]:
    """A = (r - mean) / (std_ddof1 + 1e-4) over the valid completions of each group (Seg-R1; paper.md 1.5); `scale` none: r - mean.

    A group whose valid rewards are all equal is exactly 0 (tested on the rewards, not on a computed deviation, which float
    residue makes non-zero). Invalid completions, and groups with fewer than two valid ones, are 0.

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
    """The weight of each completion in the batch mean: 1 where valid in a group with at least two valid ones, else 0."""
    return (valid_BG & (valid_BG.sum(axis=1, keepdims=True) >= 2)).astype(np.float64)


def dead_groups(
    rewards_BG: Float[np.ndarray, "B G"], valid_BG: Bool[np.ndarray, "B G"]
) -> Bool[np.ndarray, " B"]:
    """Groups that teach nothing: no two valid completions, or all valid rewards equal."""
    return ~group_advantages(rewards_BG, valid_BG).any(axis=1)

"""Rewards of a step as arrays, and the figures that are logged of them and of the answers.

Shape legend: B prompts; G completions per prompt.
"""

from collections import Counter
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Bool, Float

from segr1_jax.answer.grammar import stray_points
from segr1_jax.metrics.held_out_figures import own_figure
from segr1_jax.reward.judging import Judged
from segr1_jax.runtime.mesh import sum_over_processes
from segr1_jax.types import Completion

TERMS = ("format", "iou", "s_measure")


def reward_arrays(
    judged: Sequence[Sequence[Judged]],
) -> tuple[Float[np.ndarray, "B G"], Bool[np.ndarray, "B G"]]:
    """Return the total rewards, and which of them are valid."""
    rewards_BG = np.array([[item.reward.total for item in group] for group in judged], np.float64)
    valid_BG = np.array([[item.reward.valid for item in group] for group in judged], bool)
    return rewards_BG, valid_BG


def group_figures(
    judged: Sequence[Sequence[Judged]], groups: Sequence[Sequence[Completion]], refilled: int
) -> dict[str, float]:
    """Return means over all processes: reward and its terms, lengths, shares of each parse status.

    `dead_groups` is the share of groups without advantages, `refilled` the share that replaced one.
    With a refill the figures describe the batch that was trained on, not all that was sampled.
    """
    flat = [item for group in judged for item in group]
    rewards = [item.reward for item in flat]
    valid = np.array([reward.valid for reward in rewards])
    totals = np.ma.masked_array([reward.total for reward in rewards], ~valid)
    totals_BG = totals.reshape(len(groups), -1)
    values = {name: [getattr(reward, name) for reward in rewards] for name in TERMS}
    for name in rewards[0].own:
        values[own_figure(name)] = [reward.own[name] for reward in rewards]
    figures = {name: np.ma.masked_array(each, ~valid).mean() for name, each in values.items()}
    figures |= {
        "valid": valid.mean(),
        "reward": totals.mean(),
        "reward_std": totals_BG.std(axis=1, ddof=1).mean(),
    }
    figures["dead_groups"] = np.mean(np.ptp(totals_BG, axis=1) == 0)
    figures["refilled"] = refilled / len(groups)
    figures["length"] = np.mean(
        [len(completion.token_ids) for group in groups for completion in group]
    )
    figures["stray_points"] = np.mean(
        [stray_points(item.answer) if item.answer else 0 for item in flat]
    )
    figures["finished"] = np.mean([completion.finished for group in groups for completion in group])
    statuses = Counter(reward.parse for reward in rewards)
    figures |= {
        f"parse/{status.value}": statuses[status] / len(rewards)
        for status in type(rewards[0].parse)
    }
    means = sum_over_processes(np.array(list(figures.values()), np.float64)) / jax.process_count()
    return dict(zip(figures, means.tolist(), strict=True))

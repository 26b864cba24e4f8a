"""Replace groups without advantages by fresh ones (DAPO's dynamic sampling, arXiv 2503.14476).

Every process fills its own places from its own fresh prompts, so no image crosses hosts; all
processes decide together whether there is another round. The data order stays the global one: a
step uses up more of it. Which fresh group takes which place depends on the number of processes.

Live groups that remain once a process has no dead one are dropped. No later round of the step can
use them, because that process has no free place and cannot fill the places of other processes. A
later step cannot use them either: they would come from an older policy, but the loss assumes that
the current policy sampled them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segr1_jax.data.pipeline import Sample
from segr1_jax.objective.advantages import dead_groups
from segr1_jax.reward.judging import Judged
from segr1_jax.rollout.sampler import Samples
from segr1_jax.runtime.mesh import max_over_processes
from segr1_jax.training.rollouts import Rollout, sample_groups
from segr1_jax.training.run import Run
from segr1_jax.training.scoring import GroupScorer
from segr1_jax.training.step_figures import reward_arrays
from segr1_jax.training.submission import KnownRewards
from segr1_jax.types import Completion


class Group(NamedTuple):
    """One prompt of this process with its completions and rewards.

    `drawn` is its row of the sampled arrays (numpy, no axis B).
    """

    sample: Sample
    completions: list[Completion]
    judged: list[Judged]
    drawn: Samples


def refill(run: Run, scorer: GroupScorer, step: int, rollout: Rollout) -> Rollout:
    """Sample fresh prompts while a process has dead groups, in up to rollout.refill rounds."""
    engine, first = run.engine, _scored_groups(run, rollout)
    groups = first
    for number in range(1, run.config.rollout.refill + 1):
        if not max_over_processes(sum(map(is_dead, groups))):
            break
        fresh = run.feed.more()
        scorer.encode(fresh)
        rollout = sample_groups(run, scorer, step, fresh, number)
        groups = fill(groups, _scored_groups(run, rollout))
    with run.timer("rollout"):
        prompts = engine.put_prompts([group.sample.prompt for group in groups])
        prompts = engine.with_features(prompts, run.params)
        drawn = engine.placement.put_rows(stack(groups))
    return Rollout(
        samples=[group.sample for group in groups],
        prompts=prompts,
        drawn=drawn,
        groups=[group.completions for group in groups],
        rewards=KnownRewards([group.judged for group in groups]),
        refilled=sum(new is not old for new, old in zip(groups, first, strict=True)),
    )


def _scored_groups(run: Run, rollout: Rollout) -> list[Group]:
    """Return the rows of this process once all their rewards are there."""
    with run.timer("reward"):
        rows = np.arange(len(rollout.groups))
        rollout.rewards.send_rest(rollout.groups, rows)
        judged = rollout.rewards.of(rows)
    rows = zip(*run.engine.placement.get_rows(rollout.drawn), strict=True)
    return [
        Group(sample, completions, rewards, Samples(*row))
        for sample, completions, rewards, row in zip(
            rollout.samples, rollout.groups, judged, rows, strict=True
        )
    ]


def is_dead(group: Group) -> bool:
    """Return True where every advantage of the group would be 0."""
    return bool(dead_groups(*reward_arrays([group.judged]))[0])


def fill(groups: Sequence[Group], fresh: Sequence[Group]) -> list[Group]:
    """Replace dead groups, in order, by the live ones of `fresh`, while there are any."""
    live = iter([group for group in fresh if not is_dead(group)])
    return [next(live, group) if is_dead(group) else group for group in groups]


def stack(groups: Sequence[Group]) -> Samples:
    """Stack the sampled arrays of all groups on a leading axis B (numpy)."""
    return Samples(
        *(np.stack(rows) for rows in zip(*(group.drawn for group in groups), strict=True))
    )

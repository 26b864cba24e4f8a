"""Groups that teach nothing give their place to fresh ones (DAPO's dynamic sampling, arXiv 2503.14476, up to a bound).

Every process fills its own holes from its own fresh prompts, so no image crosses hosts; whether there is another round, all decide
together. The data order stays the global one: a step simply uses up more of it. Only which fresh group fills which hole depends on how
many processes there are.

Live groups that are left over once a process has no hole are dropped. No later round of the step
could use them: that process has no hole any more, and those of others are not its to fill. In a
later step they would be answers of an older policy, which the loss takes for those of its own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segr1_jax.data.pipeline import Sample
from segr1_jax.objective.advantages import dead_groups
from segr1_jax.reward.judging import Judged
from segr1_jax.rollout.sampler import Samples
from segr1_jax.train.step_figures import reward_arrays
from segr1_jax.types import Completion


class Group(NamedTuple):
    """One prompt of this process with all that was made of it; `drawn` is its row of the sampled arrays (numpy, no axis B)."""

    sample: Sample
    completions: list[Completion]
    judged: list[Judged]
    drawn: Samples


def is_dead(group: Group) -> bool:
    """True where every advantage of the group would be 0."""
    return bool(dead_groups(*reward_arrays([group.judged]))[0])


def fill(groups: Sequence[Group], fresh: Sequence[Group]) -> list[Group]:
    """`groups` with the dead ones replaced, in order, by the live ones of `fresh` as far as these go."""
    live = iter([group for group in fresh if not is_dead(group)])
    return [next(live, group) if is_dead(group) else group for group in groups]


def stack(groups: Sequence[Group]) -> Samples:
    """The sampled arrays of all groups, with their axis B (numpy)."""
    return Samples(
        *(np.stack(rows) for rows in zip(*(group.drawn for group in groups), strict=True))
    )

"""Which fresh groups take the places of dead ones."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from segr1_jax.reward.judging import Judged
from segr1_jax.rollout.sampler import Samples
from segr1_jax.training.refill import Group, fill, is_dead
from segr1_jax.types import ParseStatus, Reward


def group(live: bool) -> Group:
    """Two answers, of different rewards where it is live."""
    rewards = [Reward(total, 1.0, 0.0, 0.0, ParseStatus.OK) for total in (0.0, float(live))]
    judged = [Judged(reward, None, None) for reward in rewards]
    return Group(None, [], judged, Samples(*[np.zeros(0)] * 4))


lives = st.lists(st.booleans(), min_size=1, max_size=9)


@given(lives, lives)
def test_a_group_is_left_over_only_where_no_hole_is(old, fresh):
    """So no later round of the step has a use for what is left over."""
    groups, offered = [group(live) for live in old], [group(live) for live in fresh]
    filled = fill(groups, offered)
    left = sum(fresh) - sum(any(new is each for each in filled) for new in offered)
    assert left == max(0, sum(fresh) - old.count(False))
    assert not left or not any(map(is_dead, filled))
    assert all(new is each for new, each in zip(filled, groups, strict=True) if not is_dead(each))

"""Group advantages against numbers worked by hand."""

import numpy as np
import pytest
from tolerances import TOL_SIMPLE

from segr1_jax.objective.advantages import completion_weights, dead_groups, group_advantages


def test_advantages_by_hand():
    """Rewards 0, 1, 2, 3: mean 1.5, deviations -1.5 .. 1.5, sample variance 5/3.

    Dr.GRPO leaves the deviations as they are.
    """
    rewards, valid = np.array([[0.0, 1.0, 2.0, 3.0]]), np.ones((1, 4), bool)
    deviations = np.array([[-1.5, -0.5, 0.5, 1.5]])
    np.testing.assert_allclose(
        group_advantages(rewards, valid), deviations / (np.sqrt(5 / 3) + 1e-4), rtol=TOL_SIMPLE
    )
    np.testing.assert_array_equal(group_advantages(rewards, valid, "none"), deviations)


@pytest.mark.parametrize("scale", ["std", "none"])
def test_equal_rewards_give_exactly_zero_advantage(scale):
    """0.1 + 0.2 three times over: a computed deviation would be 1e-17, not 0."""
    rewards = np.full((1, 3), 0.1 + 0.2)
    assert not group_advantages(rewards, np.ones((1, 3), bool), scale).any()


def test_invalid_completions_leave_their_group():
    rewards = np.array([[1.0, 3.0, 100.0], [1.0, 50.0, 60.0]])
    valid = np.array([[True, True, False], [True, False, False]])
    root2 = np.sqrt(2) + 1e-4
    np.testing.assert_allclose(
        group_advantages(rewards, valid), [[-1 / root2, 1 / root2, 0], [0, 0, 0]], rtol=TOL_SIMPLE
    )
    np.testing.assert_array_equal(group_advantages(rewards, valid, "none"), [[-1, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(completion_weights(valid), [[1, 1, 0], [0, 0, 0]])


def test_dead_groups_teach_nothing():
    """Different rewards; all equal; equal among the valid; one valid alone."""
    rewards = np.array([[1.0, 2.0, 2.0], [2.0, 2.0, 2.0], [2.0, 2.0, 9.0], [1.0, 5.0, 9.0]])
    valid = np.array(
        [[True, True, True], [True, True, True], [True, True, False], [True, False, False]]
    )
    np.testing.assert_array_equal(dead_groups(rewards, valid), [False, True, True, True])

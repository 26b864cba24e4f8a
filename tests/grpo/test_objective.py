"""Advantages and losses against numbers worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import TOL_SIMPLE

from segr1_jax.grpo.advantages import completion_weights, group_advantages
from segr1_jax.grpo.batch import AnswerBatch, GroupBatch, answer_batch
from segr1_jax.grpo.config import ObjectiveConfig
from segr1_jax.grpo.loss import answer_loss, clipped_surrogate, grpo_loss, k3, log_ratio, token_mean


def test_advantages_by_hand():
    """Rewards 0, 1, 2, 3: mean 1.5, deviations -1.5 .. 1.5, sample variance 5/3."""
    rewards = np.array([[0.0, 1.0, 2.0, 3.0]])
    expected = np.array([[-1.5, -0.5, 0.5, 1.5]]) / (np.sqrt(5 / 3) + 1e-4)
    np.testing.assert_allclose(group_advantages(rewards, np.ones((1, 4), bool)), expected, rtol=TOL_SIMPLE)


def test_equal_rewards_give_exactly_zero_advantage():
    """0.1 + 0.2 three times over: a computed deviation would be 1e-17, not 0."""
    rewards = np.full((1, 3), 0.1 + 0.2)
    assert not group_advantages(rewards, np.ones((1, 3), bool)).any()


def test_invalid_completions_leave_their_group():
    rewards = np.array([[1.0, 3.0, 100.0], [1.0, 50.0, 60.0]])
    valid = np.array([[True, True, False], [True, False, False]])
    advantages = group_advantages(rewards, valid)
    root2 = np.sqrt(2) + 1e-4
    np.testing.assert_allclose(advantages, [[-1 / root2, 1 / root2, 0], [0, 0, 0]], rtol=TOL_SIMPLE)
    np.testing.assert_allclose(completion_weights(valid), [[1, 1, 0], [0, 0, 0]])


def test_k3_by_hand():
    """Policy at p = 0.5, reference at 0.25: r = 1/2, k3 = 1/2 + ln 2 - 1 = 0.193147."""
    np.testing.assert_allclose(k3(jnp.log(0.5), jnp.log(0.25)), 0.5 + np.log(2) - 1, rtol=TOL_SIMPLE)
    assert k3(jnp.log(0.3), jnp.log(0.3)) == 0


def test_log_ratio_is_clipped():
    assert log_ratio(jnp.float32(50.0), jnp.float32(-50.0)) == 20
    assert jnp.isfinite(k3(jnp.float32(-200.0), jnp.float32(0.0)))


@pytest.mark.parametrize(("ratio", "advantage", "expected"), [(1.5, 1.0, 1.2), (0.5, 1.0, 0.5), (1.5, -1.0, -1.5), (0.5, -1.0, -0.8)])
def test_clipped_surrogate_by_hand(ratio, advantage, expected):
    value = clipped_surrogate(jnp.full((1, 1, 1), ratio), jnp.full((1, 1), advantage), clip=0.2)
    np.testing.assert_allclose(value, expected, rtol=TOL_SIMPLE)


def make_batch():
    mask = jnp.array([[[True, True, False], [True, True, True]]])
    zeros = jnp.zeros((1, 2, 3))
    return GroupBatch(jnp.zeros((1, 2, 3), jnp.int32), mask, jnp.array([[0.5, 0.5]]), jnp.array([[1.0, -2.0]]), zeros, zeros)


def test_token_mean_ignores_padding():
    np.testing.assert_allclose(token_mean(jnp.array([[[1.0, 3.0, 99.0]]]), jnp.array([[[True, True, False]]])), [[2.0]])


def test_grpo_loss_by_hand():
    """Ratios are 1, so the surrogate is A: mean over completions of -A + beta k3, k3 = e^0.1 - 1.1 where logp = -0.1, reference 0."""
    batch = make_batch()
    logprobs = jnp.where(batch.mask, -0.1, 0.0)
    loss = grpo_loss(logprobs, jnp.ones((1, 2, 3)), batch, ObjectiveConfig(beta=0.04))
    kl = np.exp(0.1) - 1.1
    np.testing.assert_allclose(loss.value, 0.5 * (-1.0 + 2.0) + 0.04 * kl, rtol=TOL_SIMPLE)
    np.testing.assert_allclose(loss.sums["kl"], kl, rtol=1e-4)
    np.testing.assert_allclose(loss.maxima["sampler_gap"], 0.1, rtol=TOL_SIMPLE)


def test_grpo_gradient_by_hand():
    """d loss / d logp of a real token = weight / length * (-A + beta (1 - r)), r = exp(reference - logp)."""
    batch = make_batch()
    logprobs = jnp.where(batch.mask, -0.1, 0.0)
    gradient = jax.grad(lambda lp: grpo_loss(lp, jnp.ones((1, 2, 3)), batch, ObjectiveConfig(beta=0.04)).value)(logprobs)
    pull = 0.04 * (1 - np.exp(0.1))
    expected = [[[0.25 * (-1 + pull), 0.25 * (-1 + pull), 0], *[[0.5 / 3 * (2 + pull)] * 3]]]
    np.testing.assert_allclose(gradient, expected, rtol=TOL_SIMPLE)


def test_answer_loss_by_hand():
    mask = jnp.array([[[True, True, False]], [[True, False, False]]])
    batch = AnswerBatch(jnp.zeros((2, 1, 3), jnp.int32), mask, jnp.full((2, 1), 0.5))
    loss = answer_loss(jnp.array([[[-1.0, -3.0, -9.0]], [[-4.0, -9.0, -9.0]]]), jnp.zeros((2, 1, 3)), batch)
    np.testing.assert_allclose(loss.value, 0.5 * 2.0 + 0.5 * 4.0)


def test_answer_batch_pads_on_the_right():
    batch = answer_batch([np.array([5, 6]), np.array([7])], capacity=3)
    np.testing.assert_array_equal(batch.tokens[:, 0], [[5, 6, 0], [7, 0, 0]])
    np.testing.assert_array_equal(batch.mask[:, 0], [[True, True, False], [True, False, False]])
    np.testing.assert_array_equal(batch.weight, 1)

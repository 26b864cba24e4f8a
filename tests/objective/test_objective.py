"""The paper's loss, and each variant of it, against numbers worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import TOL_SIMPLE

from segr1_jax.config.loading import override
from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError
from segr1_jax.objective.batch import AnswerBatch, GroupBatch, answer_batch
from segr1_jax.objective.config import ObjectiveConfig
from segr1_jax.objective.loss import answer_loss, clipped_surrogate, grpo_loss, is_clipped

MASK = jnp.array(
    [[[True, True, False], [True, True, True]]]
)  # completions of two and of three tokens
PAPER = ObjectiveConfig(beta=0.04)


def make_batch(sampler=0.0, reference=0.0, advantages=(1.0, -2.0), weight=(0.5, 0.5)):
    """One group of two completions; what is one number stands at every token."""
    tokens = jnp.zeros(MASK.shape, jnp.int32)
    old, ref = (
        jnp.broadcast_to(jnp.where(MASK, value, 0.0), MASK.shape) for value in (sampler, reference)
    )
    return GroupBatch(tokens, MASK, jnp.array([weight]), jnp.array([advantages]), old, ref)


def everywhere(value):
    return jnp.where(MASK, value, 0.0)


def loss_of(logprobs, batch, objective):
    return jax.jit(grpo_loss, static_argnames="objective")(
        logprobs, jnp.ones(MASK.shape), batch, objective=objective
    )


def mean(parts):
    return float(parts.total / parts.weight)


BOUNDS = [(1.5, 1.0, 1.2), (0.5, 1.0, 0.5), (1.5, -1.0, -1.5), (0.5, -1.0, -0.8)]


@pytest.mark.parametrize(("ratio", "advantage", "expected"), BOUNDS)
def test_clipped_surrogate_by_hand(ratio, advantage, expected):
    value = clipped_surrogate(
        jnp.full((1, 1, 1), ratio), jnp.full((1, 1), advantage), low=0.2, high=0.2
    )
    np.testing.assert_allclose(value, expected, rtol=TOL_SIMPLE)


@pytest.mark.parametrize(("ratio", "expected"), [(1.25, 1.25), (1.5, 1.28), (0.5, 0.5)])
def test_clip_higher_by_hand(ratio, expected):
    """DAPO's 0.2 below and 0.28 above: 1.25 is inside, 1.5 stops at 1.28.

    Below 1 the minimum takes the ratio itself.
    """
    value = clipped_surrogate(jnp.full((1, 1, 1), ratio), jnp.ones((1, 1)), low=0.2, high=0.28)
    np.testing.assert_allclose(value, expected, rtol=TOL_SIMPLE)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(*case[:2], abs(case[0] * case[1] - case[2]) > 0) for case in BOUNDS],
)
def test_clipped_tokens_are_those_without_gradient(ratio, advantage, expected):
    """Where the surrogate above is not ratio * A, it is a constant."""
    ratio, advantage = jnp.full((1, 1, 1), ratio), jnp.full((1, 1), advantage)
    gradient = jax.grad(lambda r: clipped_surrogate(r, advantage, low=0.2, high=0.2).sum())(ratio)
    assert (
        bool(is_clipped(ratio, advantage, low=0.2, high=0.2)[0, 0, 0])
        == expected
        == (float(gradient[0, 0, 0]) == 0)
    )


def test_grpo_loss_by_hand():
    """Ratios are 1, so the surrogate is A.

    Mean over completions of -A + beta k3, k3 = e^0.1 - 1.1 where logp = -0.1, reference 0.
    """
    loss = loss_of(everywhere(-0.1), make_batch(), PAPER)
    kl = np.exp(0.1) - 1.1
    np.testing.assert_allclose(
        mean(loss.objective), 0.5 * (-1.0 + 2.0) + 0.04 * kl, rtol=TOL_SIMPLE
    )
    np.testing.assert_allclose(mean(loss.means["kl"]), kl, rtol=1e-4)
    np.testing.assert_allclose(mean(loss.means["kl_k1"]), -0.1, rtol=TOL_SIMPLE)
    np.testing.assert_allclose(mean(loss.means["entropy"]), 1.0, rtol=TOL_SIMPLE)
    np.testing.assert_allclose(loss.maxima["sampler_gap"], 0.1, rtol=TOL_SIMPLE)
    assert (loss.maxima["ratio_max"], mean(loss.means["clip_fraction"])) == (1.0, 0.0)
    assert loss.means["loss"] == loss.objective


def test_without_a_reference_there_is_no_kl():
    """Nothing is logged rather than the distance to the sampler."""
    loss = loss_of(everywhere(-0.1), make_batch(), ObjectiveConfig(beta=0.0))
    assert {"kl", "kl_k1"}.isdisjoint(loss.means)
    assert {"kl", "kl_k1"} <= loss_of(everywhere(-0.1), make_batch(), PAPER).means.keys()


def test_grpo_gradient_by_hand():
    """d loss / d logp of a real token = weight / length * (-A + beta (1 - r)).

    Here r = exp(reference - logp).
    """
    gradient = jax.grad(lambda lp: loss_of(lp, make_batch(), PAPER).objective.total)(
        everywhere(-0.1)
    )
    pull = 0.04 * (1 - np.exp(0.1))
    expected = [[[0.25 * (-1 + pull), 0.25 * (-1 + pull), 0], *[[0.5 / 3 * (2 + pull)] * 3]]]
    np.testing.assert_allclose(gradient, expected, rtol=TOL_SIMPLE)


# Tokens of the first completion are worth -1 each, of the second 2 each (ratio 1, so -A), two and
# three of them, T = 3.
AGGREGATED = {
    "completion_mean": (1.0 * (-1) + 1.0 * 2) / 2,  # each completion's mean; two completions
    "token_mean": (2 * (-1) + 3 * 2) / 5,  # five tokens
    "constant": (2 / 3 * (-1) + 3 / 3 * 2) / 2,  # sums over T; two completions
}


@pytest.mark.parametrize("name", AGGREGATED)
def test_aggregations_by_hand(name):
    objective = ObjectiveConfig(beta=0.0, aggregation=name)
    loss = loss_of(everywhere(-0.1), make_batch(weight=(1.0, 1.0)), objective)
    np.testing.assert_allclose(mean(loss.objective), AGGREGATED[name], rtol=TOL_SIMPLE)
    alone = loss_of(everywhere(-0.1), make_batch(weight=(0.0, 1.0)), objective)
    np.testing.assert_allclose(
        mean(alone.objective), 2.0, rtol=TOL_SIMPLE
    )  # the first is left out: nothing of it counts


def test_k2_in_the_loss_by_hand():
    """logp -0.1 against reference -0.3: k2 = 0.2^2 / 2 = 0.02, its gradient 0.2.

    k3 = e^-0.2 + 0.2 - 1, its gradient 1 - e^-0.2.
    """
    batch = make_batch(reference=-0.3, advantages=(0.0, 0.0))
    for kl, value, slope in (("k2", 0.02, 0.2), ("k3", np.exp(-0.2) - 0.8, 1 - np.exp(-0.2))):
        objective = ObjectiveConfig(beta=2.0, kl=kl)
        found, gradient = jax.value_and_grad(
            lambda lp, o=objective: loss_of(lp, batch, o).objective.total
        )(everywhere(-0.1))
        np.testing.assert_allclose(found, 2.0 * value, rtol=1e-4, err_msg=kl)
        np.testing.assert_allclose(
            gradient[0, 0], [slope / 2, slope / 2, 0], rtol=1e-4, err_msg=kl
        )  # 2 beta x 0.5 weight / 2 tokens


def test_several_updates_take_the_ratio_against_the_sampler():
    """The policy moved by +0.3 since it sampled.

    Ratio e^0.3 = 1.35, clipped to 1.2 where A = 1 and whole where A = -2; no reference.
    """
    batch, logprobs = make_batch(sampler=-0.5), everywhere(-0.2)
    loss = loss_of(logprobs, batch, ObjectiveConfig(beta=0.0, updates_per_rollout=2))
    np.testing.assert_allclose(mean(loss.objective), (-1.2 + 2 * np.exp(0.3)) / 2, rtol=TOL_SIMPLE)
    np.testing.assert_allclose(loss.maxima["ratio_max"], np.exp(0.3), rtol=TOL_SIMPLE)
    np.testing.assert_allclose(
        mean(loss.means["clip_fraction"]), 2 / 5, rtol=TOL_SIMPLE
    )  # the two tokens of the first completion
    once = loss_of(logprobs, batch, ObjectiveConfig(beta=0.0))
    np.testing.assert_allclose(mean(once.objective), (-1.0 + 2.0) / 2, rtol=TOL_SIMPLE)
    assert once.maxima["ratio_max"] == 1.0


def test_first_of_several_updates_has_the_gradient_of_the_only_one():
    """Nothing has moved yet: the ratio against the sampler is 1 too."""
    batch, logprobs = make_batch(sampler=-0.5), everywhere(-0.5)
    once, twice = (ObjectiveConfig(updates_per_rollout=count) for count in (1, 2))
    gradients = [
        jax.grad(lambda lp, o=objective: loss_of(lp, batch, o).objective.total)(logprobs)
        for objective in (once, twice)
    ]
    np.testing.assert_array_equal(*gradients)


@pytest.mark.parametrize(
    "field",
    [
        {"kl": "k1"},
        {"aggregation": "sum"},
        {"scale": "mad"},
        {"updates_per_rollout": 0},
        {"clip_low": 1.5},
        {"clip_high": -0.1},
    ],
)
def test_unknown_objectives_are_refused(field):
    ((name, value),) = field.items()
    with pytest.raises(UserError, match=f"objective.{name}"):
        override(RunConfig(), [f"objective.{name}={value}"])


def test_answer_loss_by_hand():
    mask = jnp.array([[[True, True, False]], [[True, False, False]]])
    batch = AnswerBatch(jnp.zeros((2, 1, 3), jnp.int32), mask, jnp.full((2, 1), 0.5))
    loss = answer_loss(
        jnp.array([[[-1.0, -3.0, -9.0]], [[-4.0, -9.0, -9.0]]]), jnp.zeros((2, 1, 3)), batch
    )
    np.testing.assert_allclose(mean(loss.objective), (2.0 + 4.0) / 2)


def test_answer_batch_pads_on_the_right():
    batch = answer_batch([np.array([5, 6]), np.array([7])], capacity=3)
    np.testing.assert_array_equal(batch.tokens[:, 0], [[5, 6, 0], [7, 0, 0]])
    np.testing.assert_array_equal(batch.mask[:, 0], [[True, True, False], [True, False, False]])
    np.testing.assert_array_equal(batch.weight, 1)

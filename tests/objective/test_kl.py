"""KL estimators: values by hand.

Means and gradients are compared with the divergence summed over a whole vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import TOL_SIMPLE

from segr1_jax.objective.kl import k1, k2, k3, log_ratio

POLICY, REFERENCE = jnp.array([0.5, 0.3, 0.2]), jnp.array([0.2, 0.3, 0.5])


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [(k1, np.log(2)), (k2, np.log(2) ** 2 / 2), (k3, 0.5 + np.log(2) - 1)],
)
def test_estimators_by_hand(estimator, expected):
    """Policy at p = 0.5, reference at 0.25, so r = 1/2 and -log r = ln 2; equal ones give 0."""
    np.testing.assert_allclose(estimator(jnp.log(0.5), jnp.log(0.25)), expected, rtol=TOL_SIMPLE)
    assert estimator(jnp.log(0.3), jnp.log(0.3)) == 0


def test_log_ratio_is_clipped():
    assert log_ratio(jnp.float32(50.0), jnp.float32(-50.0)) == 20
    assert all(
        jnp.isfinite(estimator(jnp.float32(-200.0), jnp.float32(0.0))) for estimator in (k1, k2, k3)
    )


def divergence(p, q):
    return jnp.sum(p * jnp.log(p / q))


def test_means_over_the_policy():
    """Summed over every token with its probability.

    k1 and k3 are the KL (0.3 ln 2.5 = 0.2749), k2 is not.
    """
    kl = float(divergence(POLICY, REFERENCE))
    np.testing.assert_allclose(kl, 0.3 * np.log(2.5), rtol=TOL_SIMPLE)
    means = [
        float(jnp.sum(POLICY * estimator(jnp.log(POLICY), jnp.log(REFERENCE))))
        for estimator in (k1, k2, k3)
    ]
    np.testing.assert_allclose(means, [kl, 0.35 * np.log(2.5) ** 2, kl], rtol=TOL_SIMPLE)


def test_gradients_are_as_documented():
    """The mean gradient over the policy's own samples, by the logits.

    Of k1 zero, of k2 and k3 that of one KL and of the other.
    """
    logits = jnp.log(POLICY)

    def mean_gradient(estimator):
        samples = jax.lax.stop_gradient(
            POLICY
        )  # tokens are drawn first, then differentiated through
        return jax.grad(
            lambda x: jnp.sum(samples * estimator(jax.nn.log_softmax(x), jnp.log(REFERENCE)))
        )(logits)

    forward = jax.grad(lambda x: divergence(jax.nn.softmax(x), REFERENCE))(logits)
    backward = jax.grad(lambda x: divergence(REFERENCE, jax.nn.softmax(x)))(logits)
    assert np.abs(forward - backward).max() > 0.05
    for estimator, expected in ((k1, jnp.zeros(3)), (k2, forward), (k3, backward)):
        np.testing.assert_allclose(
            mean_gradient(estimator), expected, atol=TOL_SIMPLE, err_msg=estimator.__name__
        )

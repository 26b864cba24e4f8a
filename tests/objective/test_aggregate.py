"""Means in two parts: by hand, and equal however the batch is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import TOL_SIMPLE

from segr1_jax.objective.aggregate import AGGREGATIONS, sum_tokens


def test_padding_is_ignored():
    np.testing.assert_allclose(
        sum_tokens(jnp.array([[[1.0, 3.0, 99.0]]]), jnp.array([[[True, True, False]]])), [[4.0]]
    )


# Completions with tokens 1 3 | 6, weight 2 | 1, and one that is left out; T = 4.
BY_HAND = {
    "completion_mean": (2 * 2 + 1 * 6, 3),
    "token_mean": (2 * 4 + 1 * 6, 2 * 2 + 1 * 1),
    "constant": (2 * 4 / 4 + 1 * 6 / 4, 3),
}


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_parts_by_hand(name):
    values = jnp.array(
        [[[1.0, 3.0, 99.0, 99.0], [6.0, 99.0, 99.0, 99.0], [50.0, 50.0, 99.0, 99.0]]]
    )
    mask = values < 99
    np.testing.assert_allclose(
        AGGREGATIONS[name](values, mask, jnp.array([[2.0, 1.0, 0.0]])),
        BY_HAND[name],
        rtol=TOL_SIMPLE,
    )


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_empty_completions_are_zero(name):
    total, weight = AGGREGATIONS[name](
        jnp.ones((1, 1, 3)), jnp.zeros((1, 1, 3), bool), jnp.ones((1, 1))
    )
    assert (float(total), float(weight)) == (0.0, 0.0 if name == "token_mean" else 1.0)


@settings(deadline=None, max_examples=15)
@given(
    st.integers(0, 2**31),
    st.sampled_from([(6, 1), (3, 2), (2, 3), (1, 6)]),
    st.sampled_from(sorted(AGGREGATIONS)),
)
def test_micro_batches_add_up_to_the_whole(seed, cut, name):
    """Value and gradient, with completions of many lengths, some empty and some left out."""
    rng, (count, rows) = np.random.default_rng(seed), cut
    values = rng.normal(size=(6, 3, 5)).astype(np.float32)
    mask = np.arange(5) < rng.integers(0, 6, (6, 3, 1))
    batch = [
        jnp.asarray(array)
        for array in (values, mask, rng.integers(0, 2, (6, 3)).astype(np.float32))
    ]

    def parts(values, mask, weight):
        gradient = jax.grad(lambda x: AGGREGATIONS[name](x, mask, weight).total)(values)
        return AGGREGATIONS[name](values, mask, weight), gradient

    whole, gradient = parts(*batch)
    cuts = [
        parts(*(array[start : start + rows] for array in batch))
        for start in range(0, count * rows, rows)
    ]
    np.testing.assert_allclose(
        np.sum([found for found, _ in cuts], axis=0), whole, atol=10 * TOL_SIMPLE
    )
    np.testing.assert_allclose(
        np.concatenate([part for _, part in cuts]), gradient, atol=TOL_SIMPLE
    )

"""The vocabulary projection in chunks and blocks against all logits at once.

Values, gradients, memory, and what moves over a mesh.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tolerances import TOL_SIMPLE

from segr1_jax.policy.chunked_head import Head, chunked_logprobs

B, G, T, D = 4, 3, 11, 16
PRIME, BANNED = (
    211,
    (0, 207, 5),
)  # no number of blocks divides it; ids in the first and the last block


def brute_force(states, kernel, tokens, head: Head):
    """Return (log-probability, entropy) token by token, in plain traced arithmetic."""
    logits = (states.astype(jnp.float32) @ kernel.astype(jnp.float32)) / head.temperature
    allowed = jnp.array([v for v in range(kernel.shape[1]) if v not in head.banned])
    p = jax.nn.softmax(logits[..., allowed], axis=-1)
    chosen = (allowed == tokens[..., None]) * p
    return jnp.log(chosen.sum(-1)), -(p * jnp.log(p)).sum(-1)


def inputs(vocabulary: int, dtype=jnp.float32):
    rng = np.random.default_rng(vocabulary)
    tokens = rng.choice([v for v in range(vocabulary) if v not in BANNED], size=(B, G, T))
    states, kernel = rng.normal(size=(B, G, T, D)), rng.normal(size=(D, vocabulary))
    return (
        jnp.asarray(states, dtype),
        jnp.asarray(kernel, jnp.float32),
        jnp.asarray(tokens, jnp.int32),
    )


def loss_of(function, head: Head):
    """A scalar whose slope differs from token to token."""
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(B, G, T)), jnp.float32)
    return lambda states, kernel, tokens: jnp.vdot(
        function(states, kernel, tokens, head)[0], weights
    )


@pytest.mark.parametrize("chunk", [1, 4, 10])
@pytest.mark.parametrize("vocabulary", [PRIME, 224])
def test_values_and_gradients(vocabulary, chunk):
    head, arguments = Head(BANNED, 0.7, chunk), inputs(vocabulary)
    for ours, theirs in zip(
        chunked_logprobs(*arguments, head), brute_force(*arguments, head), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=TOL_SIMPLE)
    ours, theirs = (
        jax.jit(jax.grad(loss_of(f, head), (0, 1)))(*arguments)
        for f in (chunked_logprobs, brute_force)
    )
    for found, expected in zip(ours, theirs, strict=True):
        assert jnp.linalg.norm(found - expected) <= TOL_SIMPLE * jnp.linalg.norm(expected)
    assert not ours[1][:, jnp.array(BANNED)].any()


def test_a_frozen_projection_gives_the_same_gradient_of_the_states():
    head, arguments = Head(BANNED, 0.7, 3), inputs(PRIME)
    alone, both = (
        jax.jit(jax.grad(loss_of(chunked_logprobs, head), which))(*arguments)
        for which in (0, (0, 1))
    )
    np.testing.assert_array_equal(alone, both[0])


def test_bfloat16_states_are_as_near_to_float32_as_plain_autodiff():
    """Slopes of logits are rounded to bfloat16 before their products, as compute_dtype says."""
    head, (states, kernel, tokens) = Head(BANNED, 0.7, 3), inputs(PRIME, jnp.bfloat16)
    ours = jax.jit(jax.grad(loss_of(chunked_logprobs, head), (0, 1)))(states, kernel, tokens)
    exact = jax.jit(jax.grad(loss_of(brute_force, head), (0, 1)))(
        states.astype(jnp.float32), kernel.astype(jnp.bfloat16), tokens
    )
    assert [gradient.dtype for gradient in ours] == [jnp.bfloat16, jnp.float32]
    for found, expected in zip(ours, exact, strict=True):
        expected = expected.astype(jnp.float32)
        assert jnp.linalg.norm(found - expected) <= 2.0**-7 * jnp.linalg.norm(expected)


@pytest.mark.parametrize("argnums", [0, (0, 1)])
def test_temporary_memory_is_a_quarter_of_that_of_full_logits(argnums):
    """As compiled for 8 answers of 128 tokens and a vocabulary of 38k; nothing is run."""
    shapes = [
        ((1, 8, 128, 512), jnp.float32),
        ((512, 37984), jnp.float32),
        ((1, 8, 128), jnp.int32),
    ]
    arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]

    def temporaries(function) -> int:
        gradient = jax.grad(lambda s, k, t: function(s, k, t)[0].sum(), argnums)
        return jax.jit(gradient).lower(*arguments).compile().memory_analysis().temp_size_in_bytes

    head = Head(BANNED, 1.0, 16)
    assert 4 * temporaries(functools.partial(chunked_logprobs, head=head)) <= temporaries(
        functools.partial(brute_force, head=head)
    )


@pytest.mark.parametrize(("data", "fsdp", "tensor"), [(1, 8, 1), (1, 2, 4), (2, 2, 2)])
def test_on_a_mesh(data, fsdp, tensor):
    """The same numbers; and no device ever holds more of the projection than its own columns."""
    mesh = jax.make_mesh(
        (data, fsdp, tensor), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3
    )
    head, arguments = Head(BANNED, 0.7, 3), inputs(224)
    rows, weights = (
        NamedSharding(mesh, spec)
        for spec in (PartitionSpec(("data", "fsdp")), PartitionSpec("fsdp", "tensor"))
    )
    if B % (data * fsdp):
        arguments = tuple(jnp.repeat(x, 2, axis=0) if x.shape[0] == B else x for x in arguments)
    states, kernel, tokens = (
        jax.device_put(x, place) for x, place in zip(arguments, (rows, weights, rows), strict=True)
    )

    def gradient(function, states, kernel, tokens):
        return jax.grad(lambda s, k: jnp.square(function(s, k, tokens, head)[0]).sum(), (0, 1))(
            states, kernel
        )

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        jitted = jax.jit(
            functools.partial(gradient, chunked_logprobs), out_shardings=(rows, weights)
        )
        compiled = jitted.lower(states, kernel, tokens).compile()
    expected_gradient = jax.jit(functools.partial(gradient, brute_force))
    for found, expected in zip(
        compiled(states, kernel, tokens), expected_gradient(*arguments), strict=True
    ):
        assert jnp.linalg.norm(found - expected) <= TOL_SIMPLE * jnp.linalg.norm(expected)
    gathered = [
        math.prod(map(int, shape.split(",")))
        for shape in re.findall(r"= \w+\[([\d,]+)\]\S* all-gather", compiled.as_text())
    ]
    assert max(gathered, default=0) <= D * 224 // tensor

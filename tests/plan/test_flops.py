"""FLOPs and temporaries of traced programs against numbers worked by hand."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from segr1_jax.plan.flops import matmul_flops
from segr1_jax.plan.liveness import plain_size, temporary_bytes
from segr1_jax.policy.attention import Attention
from segr1_jax.policy.qwen2_5_vl.arch import TextArch
from segr1_jax.policy.qwen2_5_vl.text import TextLayer, mrope
from segr1_jax.policy.scanned_layers import scan_layers, stacked

ARCH = TextArch(5, 8, 12, 4, 2, 2, 32, 1e6, (1, 0, 0), 1e-6, True)
P = 6
PROJECTIONS = 2 * P * 8 * (8 + 4 + 4 + 8)  # q, k, v, o of 8 -> 4 heads x 2, 2 x 2, 2 x 2, 8
MLP = 2 * P * 8 * 12 * 3  # gate, up, down
ATTENTION = 2 * 2 * P * P * 8  # scores and mixing, 4 heads of 2
LAYER = PROJECTIONS + MLP + ATTENTION


def traced(function, *arguments):
    return jax.jit(function).trace(*arguments).jaxpr.jaxpr


def flops(function, *arguments, trips=1, true_share=1.0):
    return matmul_flops(traced(function, *arguments), trips=trips, true_share=true_share)


def layers_forward(x):
    layers = stacked(lambda r: TextLayer(r, ARCH, None, Attention()), ARCH.layers, nnx.Rngs(0))
    rotary = mrope(ARCH, jnp.zeros((3, 1, P), jnp.int32))
    return scan_layers(
        layers, lambda layer, x, _: layer.prefix(x, rotary, jnp.ones((1, P), bool)), x, remat="full"
    )[0]


def test_a_stack_of_text_layers():
    assert flops(layers_forward, jnp.ones((1, P, 8))) == 5 * LAYER


def test_a_gradient_with_remat_is_three_forward_passes():
    """Only the input is differentiated: one pass forward, one again when needed, one back."""
    assert flops(jax.grad(lambda x: layers_forward(x).sum()), jnp.ones((1, P, 8))) == 3 * 5 * LAYER


def test_branches_and_loops_count_by_how_often_they_run():
    a = jnp.ones((4, 4))  # one product: 2 * 4 * 4 * 4 = 128

    def branch(x):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ a @ a, lambda: x @ a)

    def loop(x):
        return jax.lax.while_loop(lambda c: c[1] < 3, lambda c: (c[0] @ a, c[1] + 1), (x, 0))[0]

    assert flops(branch, a, true_share=0.25) == 128 * (0.25 * 2 + 0.75 * 1)
    assert flops(loop, a, trips=7) == 7 * 128


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x @ x @ x, 400),  # the first product is kept, the last is the result
        (lambda x: jnp.exp(x) + 1, 0),  # fused into the result
        (lambda x: jnp.exp(x @ x).sum(), 400),  # fused into the sum, which reads the product
        (lambda x: jnp.exp(x @ x) @ x, 400),  # written over the product
        (
            lambda x: jax.lax.scan(lambda c, _: (c @ x, c), x, None, length=3)[1].sum(),
            3 * 400 + 400,
        ),  # stacked results, one carry
    ],
)
def test_temporaries_by_hand(function, expected):
    """x is 10 x 10 float32: 400 bytes. A result that is a scalar is not counted."""
    assert temporary_bytes(traced(function, jnp.ones((10, 10))), plain_size) == pytest.approx(
        expected, abs=8
    )

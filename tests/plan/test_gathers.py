"""Rules about gathered weights, on text that XLA compiled for 8 devices.

Some of the programs break them.
"""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from tiny_arch import CONFIG, OVERRIDES

from segr1_jax.config.loading import override
from segr1_jax.config.schema import RunConfig
from segr1_jax.plan.compiled import compile_program
from segr1_jax.plan.gathers import (
    all_gathers,
    gather_faults,
    gathered_sizes,
    stack_gathers,
    weight_gathers_in_loops,
)
from segr1_jax.plan.programs import Programs
from segr1_jax.policy.decode_weights import SCANNED, decode_specs
from segr1_jax.policy.qwen2_5_vl.arch import arch_from_config
from segr1_jax.runtime.mesh import make_mesh

LAYERS, IN, OUT = 5, 64, 72
SIZES = {"kernel": (IN * OUT, LAYERS * IN * OUT)}


@pytest.fixture(scope="module")
def programs():
    config = override(
        RunConfig(),
        [*OVERRIDES, "mesh.data=1", "mesh.fsdp=8", "mesh.tensor=1", "policy.head_chunk=12"],
    )
    return Programs(config, arch_from_config(CONFIG), make_mesh(config.mesh))


def text_of(stack_spec: PartitionSpec, layer_spec: PartitionSpec) -> str:
    """A scan over layers whose kernels are stored in eighths.

    Each spec says what is gathered: the stack before the scan, or a layer inside it.
    """
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))

    def put(spec):
        return NamedSharding(mesh, spec)

    def run(kernels, x):
        kernels = jax.lax.with_sharding_constraint(kernels, put(stack_spec))

        def body(x, kernel):
            kernel = jax.lax.with_sharding_constraint(kernel, put(layer_spec))
            return jax.lax.with_sharding_constraint(
                jnp.tanh(x @ kernel @ kernel.T), put(PartitionSpec("fsdp"))
            ), None

        return jax.lax.scan(body, x, kernels)[0]

    kernels = jax.ShapeDtypeStruct(
        (LAYERS, IN, OUT), jnp.float32, sharding=put(PartitionSpec(None, "fsdp"))
    )
    x = jax.ShapeDtypeStruct((16, IN), jnp.float32, sharding=put(PartitionSpec("fsdp")))
    return jax.jit(run).lower(kernels, x).compile().as_text()


def test_a_layer_gathered_inside_the_scan():
    gathers = all_gathers(text_of(PartitionSpec(None, "fsdp"), PartitionSpec()))
    assert [gather.shapes for gather in gathers] == [((IN, OUT),)] or [
        gather.shapes for gather in gathers
    ] == [((1, IN, OUT),)]
    assert [len(gather.loops) for gather in gathers] == [1]
    assert stack_gathers(gathers, SIZES) == []
    assert "gathers kernel in" in weight_gathers_in_loops(gathers, SIZES)[0]


def test_a_whole_stack_gathered_before_the_scan():
    gathers = all_gathers(text_of(PartitionSpec(), PartitionSpec()))
    assert [gather.loops for gather in gathers] == [()]
    assert "gathers the whole stack kernel" in stack_gathers(gathers, SIZES)[0]
    assert weight_gathers_in_loops(gathers, SIZES) == []


def test_decoding_with_the_rollout_copy_gathers_no_weights(programs):
    assert gather_faults(programs, "sample_block", compile_program(programs.decode).text) == []


@pytest.mark.slow
def test_decoding_with_sharded_weights_is_found_out(programs):
    """The weights of training in the sampler: every token would gather them."""
    decode = programs.decode
    specs = decode_specs(programs.engine.policy, SCANNED)
    sharded = programs._weights(specs, jnp.bfloat16, {"embed": "fsdp"})
    text = decode.function.lower(sharded, *decode.arguments[1:]).compile().as_text()
    assert any("layers.mlp" in fault for fault in gather_faults(programs, "sample_block", text))


@pytest.mark.slow
def test_an_update_gathers_a_layer_at_a_time_and_never_the_batch(programs):
    text = compile_program(programs.gradient).text
    gathers, sizes = all_gathers(text), gathered_sizes(programs, programs.engine.policy.specs)
    assert gather_faults(programs, "gradient", text) == []
    layers = {layer for layer, _ in sizes.values()}
    assert [
        gather
        for gather in gathers
        if gather.loops and layers & {math.prod(shape) for shape in gather.shapes}
    ]
    prefix = programs.config.batch * programs.config.prompt.max_tokens * programs.arch.text.hidden
    assert not [
        gather for gather in gathers for shape in gather.shapes if math.prod(shape) == prefix
    ]

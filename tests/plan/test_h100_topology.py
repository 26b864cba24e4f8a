"""Budgets of the programs that XLA compiles for H100s, at the widths of the 3B model.

Four layers; all 36 with the marker `slow`. No GPU is needed, only the compiler in JAX's CUDA
plugin.
"""

import collections
import functools
import json
from pathlib import Path

import pytest
from tiny_arch import CONFIG, OVERRIDES

from segr1_jax.config.hardware import DEVICES
from segr1_jax.config.loading import load_config, override
from segr1_jax.config.schema import RunConfig
from segr1_jax.plan.buffers import ledger
from segr1_jax.plan.compiled import Compiled, compile_program, options_of, roofline_of
from segr1_jax.plan.kernels import Kernel, kernels
from segr1_jax.plan.programs import Programs
from segr1_jax.plan.roofline import ceilings
from segr1_jax.plan.run_plan import compile_plan
from segr1_jax.plan.topology import topology_devices
from segr1_jax.policy.qwen2_5_vl.arch import arch_from_config
from segr1_jax.runtime.mesh import make_mesh

pytest.importorskip(
    "jax_plugins.xla_cuda13",
    reason="XLA's compiler for GPUs is not installed: pip install 'segr1-jax[gpu_compiler]'",
)

ROOT = Path(__file__).parents[2]
ARCH = json.loads((ROOT / "configs/arch/qwen2.5-vl-3b.json").read_text())
HIDDEN, VOCAB, INTERMEDIATE, KV = 2048, 151936, 11008, 2 * 128
# Elements of the matrices of a layer: query and output, key and value, gate, up and down.
LAYER = {HIDDEN * HIDDEN: 2, HIDDEN * KV: 2, HIDDEN * INTERMEDIATE: 3}
WEIGHTS = sum(size * count for size, count in LAYER.items())

PROMPTS, GROUP, TOKENS, PREFIX = 8, 4, 56, 96
SMALL = [
    *(f"batch={PROMPTS}", "micro_batches=1", f"eval_batch={PROMPTS}", f"rollout.group={GROUP}"),
    *(f"rollout.max_tokens={TOKENS}", f"prompt.max_tokens={PREFIX}", "prompt.frame=112"),
    *("policy.tower=frozen", "reward.device=cpu"),
]
# Of each layer, K or V alone.
PREFIX_CACHE = PROMPTS * PREFIX * KV
OWN_CACHE = PROMPTS * GROUP * TOKENS * KV

# Budgets. The update gathers a weight three times: in the forward pass, where remat computes the
# layer again, and for the derivative by its input. XLA does not merge the last two, which gather
# the same operand in one loop.
COPIES_OF_A_CACHE = 0
SINGLE_PRODUCTS = 0
HEAD_GATHERS = 1
PASSES = 3
# Bytes moved per token, over those of the weights and whole caches.
DECODE_BYTES = 1.5
DECODE_KERNELS_PER_LAYER = 16
DECODE_KERNELS_BESIDE = 40
# 3 GB for 24 images of 756 pixels.
FEATURES_BYTES_PER_IMAGE = 125e6
# Bytes of temporaries, and bytes more for each layer.
TEMPORARIES = {
    "decode": (0.75e9, 5e6),
    "reference_logprobs": (0.8e9, 0),
    "gradient": (1.75e9, 30e6),
}


@pytest.fixture(
    scope="module", params=[4, pytest.param(36, marks=pytest.mark.slow)], ids="{}-layers".format
)
def layers(request) -> int:
    return request.param


@functools.cache
def compiled(layers: int, devices: int, program: str, *overrides: str) -> Compiled:
    vision = ARCH["vision_config"] | {"depth": 4, "fullatt_block_indexes": [3]}
    arch = arch_from_config(ARCH | {"num_hidden_layers": layers, "vision_config": vision})
    config = load_config(ROOT / "configs/ours/rl_cod_3b.yaml", [*SMALL, *overrides])
    mesh = make_mesh(config.mesh, topology_devices(f"h100:{devices}"))
    programs = Programs(config, arch, mesh)
    return compile_program(getattr(programs, program), options_of(programs))


@functools.cache
def kernels_of(layers: int, devices: int, program: str) -> list[Kernel]:
    return kernels(compiled(layers, devices, program).text, trips=1, true_share=0.25)


def decoding(layers: int) -> list[Kernel]:
    return [
        kernel
        for kernel in kernels_of(layers, 1, "decode")
        if kernel.loops and not kernel.loops[0].known
    ]


def gathers(layers: int) -> collections.Counter[int]:
    """Count the all-gathers of the update by the elements of their results."""
    counts = collections.Counter()
    for kernel in kernels_of(layers, 8, "gradient"):
        if kernel.op.startswith("all-gather"):
            for array in kernel.traffic.results:
                counts[array.elements] += kernel.times
    return counts


def test_decoding_copies_no_cache(layers):
    caches = {size * count for size in (PREFIX_CACHE, OWN_CACHE) for count in (1, layers)}
    copies = [
        (kernel.name, kernel.source)
        for kernel in decoding(layers)
        for array in kernel.traffic.results
        if array.elements in caches
    ]
    assert len(copies) <= COPIES_OF_A_CACHE, copies


def test_decoding_moves_weights_and_caches_once(layers):
    weights = 2 * (layers * WEIGHTS + VOCAB * HIDDEN)
    caches = 2 * 2 * layers * (PREFIX_CACHE + OWN_CACHE)
    moved = sum(kernel.times * kernel.bytes for kernel in decoding(layers))
    assert weights < moved <= DECODE_BYTES * (weights + caches)


def test_decoding_launches_few_kernels(layers):
    launched = sum(kernel.times for kernel in decoding(layers))
    assert launched <= DECODE_KERNELS_PER_LAYER * layers + DECODE_KERNELS_BESIDE


@pytest.mark.parametrize(
    ("devices", "program"),
    [
        (1, "decode"),
        (8, "reference_logprobs"),
        (8, "gradient"),
    ],
)
def test_products_of_layers_have_half_precision_operands(layers, devices, program):
    products = [
        (product.dtype, kernel.name, kernel.source)
        for kernel in kernels_of(layers, devices, program)
        for product in kernel.products
        if "text_layer" in kernel.source
    ]
    single = [each for each in products if each[0] == "f32"]
    assert products
    assert len(single) <= SINGLE_PRODUCTS, single


def test_the_head_is_gathered_once_per_micro_batch(layers):
    assert gathers(layers)[VOCAB * HIDDEN] == HEAD_GATHERS


def test_layers_are_gathered_once_per_pass(layers):
    counts = gathers(layers)
    for size, count in LAYER.items():
        assert 0 < counts[size] <= PASSES * count * layers


@pytest.mark.parametrize(
    ("devices", "program"), [(1, "decode"), (8, "reference_logprobs"), (8, "gradient")]
)
def test_temporaries(layers, devices, program):
    base, per_layer = TEMPORARIES[program]
    assert compiled(layers, devices, program).temporaries <= base + per_layer * layers


def test_temporaries_of_the_tower():
    large = compiled(4, 1, "features", "prompt.frame=756", "prompt.max_tokens=1152")
    assert large.temporaries <= FEATURES_BYTES_PER_IMAGE * PROMPTS


@pytest.mark.slow
def test_the_plan_of_a_tiny_run():
    """Phases are those of the programs; the bytes of an update by hand."""
    vision = CONFIG["vision_config"] | {"hidden_size": 64, "intermediate_size": 128}
    arch = arch_from_config(CONFIG | {"intermediate_size": 128, "vision_config": vision})
    config = override(RunConfig(), [*OVERRIDES, "mesh.data=1", "mesh.fsdp=2", "mesh.tensor=1"])
    plan = compile_plan(config, arch, DEVICES["h100"], topology_devices("h100:2"))
    phases = {each.name: each for each in plan.phases}
    assert phases["decode"].seconds == plan.rooflines["sample_block"].decoding.seconds
    assert plan.rooflines["sample_block"].decoding.kernels > 12 * 7
    assert plan.rooflines["decode_weights"].total.wire > 0
    # AdamW reads weight, gradient and two moments, and writes weight and moments: 7 passes.
    weights = sum(each.bytes for each in plan.buffers if each.name == "master weights")
    assert 7 * weights <= plan.rooflines["update"].total.bytes <= 9 * weights


def test_the_plan_of_moments_on_the_host():
    """The update of the largest weight is one kernel over its passes, without temporaries."""
    config = override(RunConfig(), [*OVERRIDES, "mesh.data=1", "mesh.fsdp=2", "mesh.tensor=1"])
    config = override(config, ["stage=sft", "optimizer.moments=host", "policy.lora.rank=0"])
    programs = Programs(
        config, arch_from_config(CONFIG), make_mesh(config.mesh, topology_devices("h100:2"))
    )
    clip, step = map(compile_program, programs.updates)
    weight = 4 * (2 * 3 * 14 * 14 * 48) / 2  # the patch embedding, over fsdp
    at = ceilings(DEVICES["h100"])
    assert 7 * weight <= roofline_of(programs, step, at).total.bytes <= 7.1 * weight
    assert step.temporaries < 0.01 * weight
    assert programs.pinned_moments.largest == pytest.approx(2 * weight, abs=100)
    whole = sum(each.bytes for each in ledger(programs, {}) if each.name == "gradient")
    # It reads the gradient for the norm and to clip it, and writes it once.
    assert 2.9 * whole <= roofline_of(programs, clip, at).total.bytes <= 4.5 * whole

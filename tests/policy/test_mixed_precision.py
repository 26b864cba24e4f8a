"""bfloat16: gradients reach float32 weights unrounded, and other rounding is bounded."""

import dataclasses
import functools
import math
import re
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import CONFIG
from tolerances import (
    MAX_BF16_GRADIENT_ERROR,
    MAX_BF16_SAMPLER_GAP,
    MEAN_BF16_SAMPLER_GAP,
    MIN_BF16_STEP_COSINE,
    TOL_SIMPLE,
)
from transformers_oracle import batch_of, make_oracle, make_prompt

from segr1_jax.config.loading import load_config
from segr1_jax.config.schema import GuardConfig
from segr1_jax.hf.load_weights import read_arch_file
from segr1_jax.objective.batch import AnswerBatch
from segr1_jax.objective.config import OptimizerConfig
from segr1_jax.objective.loss import answer_loss
from segr1_jax.objective.optimizer import make_optimizer
from segr1_jax.objective.update import TrainBatch, init_state, make_gradient, make_update
from segr1_jax.plan.program import Program
from segr1_jax.plan.programs import Programs
from segr1_jax.policy.config import LoraConfig
from segr1_jax.policy.logprobs import score_tokens
from segr1_jax.policy.mixed_precision import times
from segr1_jax.policy.params import ADAPTER, Params, Policy
from segr1_jax.policy.qwen2_5_vl.arch import PolicyArch, arch_from_config
from segr1_jax.rollout.sampler import make_sampler
from segr1_jax.runtime.mesh import make_mesh
from segr1_jax.training.update_guard import is_sound

ARCH_3B = Path(__file__).parents[2] / "configs/arch/qwen2.5-vl-3b.json"
SMALL = [
    *("batch=8", "eval_batch=8", "micro_batches=1", "mesh.fsdp=8"),
    *("prompt.frame=112", "prompt.max_tokens=40", "rollout.max_tokens=12", "rollout.group=2"),
    *("policy.compute_dtype=bfloat16", "policy.remat=full"),
]
BF16, FLOAT32 = jnp.bfloat16, jnp.float32
REDUCTION = re.compile(r"= \(?(\w+)\[([\d,]*)\]\S* (?:all-reduce|reduce-scatter)\(")


def shallow_3b() -> PolicyArch:
    """The 3B in all its widths, two layers deep."""
    arch = read_arch_file(ARCH_3B)
    vision = dataclasses.replace(arch.vision, depth=2, full_layers=(1,))
    return dataclasses.replace(arch, vision=vision, text=dataclasses.replace(arch.text, layers=2))


def reductions(program: Program) -> list[tuple[str, str]]:
    """(dtype, shape) of what the partitioned program adds up over devices.

    Later passes do not count: the CPU's promote bfloat16.
    """
    lowered = program.function.lower(*program.arguments)
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "xla_dump_to": folder,
            "xla_dump_hlo_pass_re": "spmd-partitioning",
            "xla_dump_hlo_as_text": True,
            "xla_backend_optimization_level": 0,
        }
        lowered.compile(compiler_options=options)
        (text,) = [file.read_text() for file in Path(folder).glob("*after_spmd-partitioning*")]
    return REDUCTION.findall(text)


@pytest.fixture
def _uncached():
    """A program that comes from the cache of compiled programs is not compiled, nor dumped."""
    option = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, option)
    jax.config.update(option, math.inf)
    yield
    jax.config.update(option, before)


@pytest.mark.usefixtures("_uncached")
@pytest.mark.parametrize(
    ("lora", "head_chunk"),
    [
        pytest.param(0, 4, id="full-chunked"),
        pytest.param(4, 64, id="lora-whole"),
        pytest.param(0, 64, id="full-whole", marks=pytest.mark.slow),
        pytest.param(4, 4, id="lora-chunked", marks=pytest.mark.slow),
    ],
)
def test_no_gradient_is_added_up_in_bfloat16(lora, head_chunk):
    tower = "policy.tower=frozen" if lora else "policy.tower=trained"
    more = [tower, f"policy.lora.rank={lora}", f"policy.head_chunk={head_chunk}"]
    config = load_config(CONFIG, [*SMALL, *more])
    programs = Programs(config, shallow_3b(), make_mesh(config.mesh))
    found = reductions(programs.gradient)
    assert sum("," in shape for _, shape in found) >= 7, "the kernels' gradients are not among them"
    assert {dtype for dtype, _ in found} == {"f32"}


def test_the_gradient_of_a_kernel_is_a_float32_product():
    rng = np.random.default_rng(0)
    x, slope = (jnp.asarray(rng.normal(size=(2, 50, size)), BF16) for size in (24, 40))
    kernel = jnp.asarray(rng.normal(size=(24, 40)), FLOAT32)
    value, pull = jax.vjp(times, x, kernel)
    found_x, found_kernel = pull(slope)
    np.testing.assert_array_equal(value, x @ kernel.astype(BF16))
    assert (found_x.dtype, found_kernel.dtype) == (BF16, FLOAT32)
    expected = np.einsum("bni,bno->io", np.float64(x), np.float64(slope))
    np.testing.assert_allclose(found_kernel, expected, rtol=TOL_SIMPLE, atol=TOL_SIMPLE)
    np.testing.assert_array_equal(found_x, slope @ kernel.astype(BF16).T)


@pytest.fixture(scope="module")
def arch():
    arch = arch_from_config(make_oracle().config.to_dict())
    return dataclasses.replace(arch, text=dataclasses.replace(arch.text, layers=4))


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    return batch_of([make_prompt(rng, [(84, 140)], [4, 6 + row]) for row in range(4)], capacity=32)


def draw_weights(policy: Policy) -> Params:
    """Maps that keep the size of their input, norms around 1, biases of a size to matter."""
    rng = np.random.default_rng(1)

    def draw(name, shape):
        noise = rng.normal(size=shape)
        if name.endswith(("scale", "bias")):
            return name.endswith("scale") + 0.3 * noise
        if name.endswith(ADAPTER):
            return 0.1 * noise
        # The embedding is the head too: logits of a few units.
        return noise * (0.1 if name == "embed" else shape[-2] ** -0.5)

    return {
        name: jnp.asarray(draw(name, spec.shape), FLOAT32) for name, spec in policy.specs.items()
    }


def test_sampler_and_scorer_in_bfloat16(arch, prompts):
    policy = Policy(arch, dtype=BF16)
    master = draw_weights(policy)
    copy = jax.tree.map(lambda x: x.astype(BF16), master)
    sampler = jax.jit(make_sampler(policy, group=4, max_tokens=24, end_tokens=[0]))
    drawn = sampler(copy, prompts, jax.random.key(0), np.arange(4, dtype=np.int32))
    score = jax.jit(lambda w: score_tokens(policy.bind(w), prompts, drawn.tokens, drawn.mask))
    gap = np.abs(score(master).logprobs - drawn.logprobs)[np.asarray(drawn.mask)]
    assert gap.max() <= MAX_BF16_SAMPLER_GAP
    assert gap.mean() <= MEAN_BF16_SAMPLER_GAP


@pytest.mark.parametrize(
    "lora",
    [
        pytest.param(None, id="full"),
        pytest.param(LoraConfig(rank=3, alpha=6.0), id="lora", marks=pytest.mark.slow),
    ],
)
def test_a_training_step_in_bfloat16_against_float32(arch, prompts, lora):
    tokens = jnp.asarray(np.random.default_rng(2).integers(0, 200, (4, 1, 12)), jnp.int32)
    answers = AnswerBatch(tokens, jnp.ones(tokens.shape, bool), jnp.ones((4, 1)))
    batch, optimizer = TrainBatch(prompts, answers), make_optimizer(OptimizerConfig(), 10)

    def step(dtype):
        policy = Policy(arch, dtype=dtype, remat="full", lora=lora)
        weights = draw_weights(policy)
        trained = {n: w for n, w in weights.items() if n.endswith(ADAPTER)} or weights
        frozen = {n: w.astype(dtype) for n, w in weights.items() if n not in trained}
        zeros, add = make_gradient(policy, answer_loss, temperature=1.0, head_chunk=5)
        totals = jax.jit(lambda w: add(zeros(w, frozen, batch), w, frozen, batch))(trained)
        update = make_update(optimizer, functools.partial(is_sound, guard=GuardConfig()))
        state, _ = jax.jit(update)(init_state(trained, optimizer), totals, 1)
        return totals.gradient, {name: state.params[name] - trained[name] for name in trained}

    (gradient, moved), (true_gradient, true_moved) = step(BF16), step(FLOAT32)
    for name, value in true_gradient.items():
        error = np.linalg.norm(gradient[name] - value) / np.linalg.norm(value)
        assert gradient[name].dtype == FLOAT32
        assert error <= MAX_BF16_GRADIENT_ERROR, (name, error)
    # Adam's first step has the size of the learning rate whatever the gradient's is: a component
    # near 0 may change its sign.
    ours, theirs = (
        np.concatenate([np.ravel(tree[n]) for n in tree]) for tree in (moved, true_moved)
    )
    cosine = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
    assert cosine >= MIN_BF16_STEP_COSINE

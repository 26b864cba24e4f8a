"""Arrays of a step with random values, made on the device: no checkpoint, no tokenizer.

Shape legend: R prompts of a micro-batch; G completions per prompt; T completion tokens.
"""

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gpu_parts.request import random_keys

from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError
from segr1_jax.objective.batch import GroupBatch
from segr1_jax.objective.update import TrainBatch, TrainState
from segr1_jax.plan.blank_prompts import blank_prompts
from segr1_jax.plan.command import arch_of
from segr1_jax.plan.compiled import Compiled, figures
from segr1_jax.plan.program import Program
from segr1_jax.plan.programs import Programs
from segr1_jax.policy.params import Params
from segr1_jax.policy.qwen2_5_vl.model import PromptBatch
from segr1_jax.rollout.sampler import Decoding as State
from segr1_jax.rollout.sampler import Prefilled
from segr1_jax.runtime.mesh import make_mesh

# The end token of an engine without a tokenizer.
END = 0
LOGPROB = -2.0


@dataclass(frozen=True)
class Weights:
    """Weights of a run: its state, the frozen ones, and those of the reference policy."""

    state: TrainState
    frozen: Params
    reference: Params

    @property
    def all(self) -> Params:
        return self.frozen | self.state.params


@dataclass(frozen=True)
class Samples:
    """Completions of a micro-batch in which all have the same length, and their capacity."""

    prompts: PromptBatch
    completions: GroupBatch
    capacity: int


def programs_of(config: RunConfig) -> Programs:
    """Return the programs of a run on one device, in which no completion ends early.

    Without a tokenizer the end token is END, which is made an id that is never sampled.
    """
    if config.optimizer.moments == "host":
        raise UserError(
            "optimizer.moments",
            expected="device, the only place that this benchmark measures",
            got="host",
            remedy="add optimizer.moments=device",
        )
    arch, mesh = arch_of(config), make_mesh(config.mesh, jax.devices()[:1])
    others = [token for token in range(arch.text.vocab) if token != END]
    programs = Programs(config, arch.knowing(frozenset(others)), mesh)
    programs.check()
    return programs


def compile_with(program: Program, options: dict[str, Any]) -> tuple[Any, Compiled]:
    """Compile a program with options of the compiler; return the executable and its figures.

    The executable takes the arguments of the program without static ones.
    """
    began = time.perf_counter()
    lowered = program.function.lower(*program.arguments)
    executable = lowered.compile(compiler_options=options)
    return executable, figures(program.name, executable, time.perf_counter() - began)


def make_weights(programs: Programs) -> Weights:
    """Make random weights."""
    engine = programs.engine
    trained, frozen = _random(programs.state.params), _random(programs.frozen)
    initial = {name: trained[name] for name in programs.initial}
    reference = engine.reference_weights(initial, frozen)
    return Weights(engine.moments.init(trained), frozen, reference)


def _random(shapes: dict[str, jax.ShapeDtypeStruct]) -> Params:
    def make() -> Params:
        keys = random_keys(len(shapes))
        return {
            name: _random_weight(key, name.rpartition(".")[2], shape)
            for key, (name, shape) in zip(keys, shapes.items(), strict=True)
        }

    return jax.jit(make, out_shardings={name: x.sharding for name, x in shapes.items()})()


def _random_weight(key: jax.Array, kind: str, shape: jax.ShapeDtypeStruct) -> jax.Array:
    """Return a weight whose map keeps the size of its inputs; scales are 1 and biases 0."""
    if kind in ("scale", "bias"):
        return jnp.full(shape.shape, float(kind == "scale"), shape.dtype)
    # Uniform with a variance of 1 / inputs.
    most = math.sqrt(3 / shape.shape[-2])
    return jax.random.uniform(key, shape.shape, shape.dtype, -most, most)


def zeros(shapes: Any) -> Any:
    """Return arrays of zeros for a tree of shapes with shardings."""
    shardings = jax.tree.map(lambda x: x.sharding, shapes)

    def make():
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    return jax.jit(make, out_shardings=shardings)()


def pixel_prompts(programs: Programs) -> PromptBatch:
    """Return a batch of prompts at the token limit, about images of noise."""
    config, rng = programs.config, np.random.default_rng(0)
    one = blank_prompts(config, programs.arch)
    patches = rng.integers(0, 256, one.images.patches.shape, np.uint8)
    tokens = rng.integers(0, programs.arch.text.vocab, one.tokens.shape, np.int32)
    one = one._replace(tokens=tokens, images=one.images._replace(patches=patches))
    return programs.engine.placement.put_rows(
        jax.tree.map(lambda x: np.repeat(x, config.batch, axis=0), one)
    )


def samples(programs: Programs, prompts: PromptBatch) -> Samples:
    """Return random completions of `programs.answer_tokens` (0: the limit) about `prompts`.

    `prompts` are those of a batch; the micro-batch has the first of them.
    """
    config, rng = programs.config, np.random.default_rng(1)
    shape = (config.batch // config.micro_batches, config.rollout.group, config.rollout.max_tokens)
    length = programs.answer_tokens or config.rollout.max_tokens
    logprobs_RGT = np.full(shape, LOGPROB, np.float32)
    local = GroupBatch(
        tokens=rng.integers(0, programs.arch.text.vocab, shape, np.int32),
        mask=np.broadcast_to(np.arange(shape[2]) < length, shape),
        weight=np.ones(shape[:2], np.float32),
        advantages=rng.standard_normal(shape[:2], np.float32),
        sampler_logprobs=logprobs_RGT,
        reference_logprobs=logprobs_RGT,
    )
    rows = programs.engine.placement.rows
    part = jax.tree.map(lambda x: jax.device_put(x[: shape[0]], rows), prompts)
    completions = programs.engine.placement.put_rows(local)
    return Samples(part, completions, programs.capacity)


def decode_at(programs: Programs, capacity: int) -> Program:
    """Return the program `sample_block` on caches of `capacity` slots."""
    weights, prefilled, state, own, stop = programs.decode.arguments

    def cut(x):
        shape = (*x.shape[:-2], capacity, x.shape[-1])
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=x.sharding)

    arguments = (weights, prefilled, state, jax.tree.map(cut, own), stop)
    return dataclasses.replace(programs.decode, arguments=arguments)


def with_answers(programs: Programs, tokens: int) -> Programs:
    """Return the programs for completions of `tokens` each."""
    return dataclasses.replace(programs, answer_tokens=tokens)


class Gradient:
    """Calls of the program `gradient`, each of which adds to the totals of the last."""

    def __init__(self, programs: Programs, weights: Weights, chosen: Samples):
        self.totals = zeros(programs.totals)
        self.arguments = (
            weights.state.params,
            weights.frozen,
            TrainBatch(chosen.prompts, chosen.completions),
        )

    def __call__(self, executable) -> Any:
        self.totals = executable(self.totals, *self.arguments)
        return self.totals


class Update:
    """Calls of the program `update`, each of which changes the state that the last has left."""

    def __init__(self, state: TrainState, totals):
        self.state, self.totals, self.step = state, totals, 0

    def __call__(self, executable) -> Any:
        self.step += 1
        self.state, metrics = executable(self.state, self.totals, np.int32(self.step))
        return self.state, metrics


class Decoding:
    """Calls of a program `sample_block` at one capacity, each of `tokens` tokens.

    The last of `calls` + 1 calls ends at the capacity, so attention reads most of the caches.
    """

    def __init__(
        self,
        programs: Programs,
        program: Program,
        decode: Params,
        prefilled: Prefilled,
        state: State,
        calls: int,
    ):
        sampler = programs.engine.sampler
        own = program.arguments[3]
        self.capacity = jax.tree.leaves(own)[0].shape[-2]
        self.tokens = min(sampler.block_tokens, self.capacity // (calls + 1))
        start = self.capacity - (calls + 1) * self.tokens
        self.weights, self.prefilled, self.own = decode, prefilled, zeros(own)
        step = jax.device_put(np.int32(start), programs.engine.placement.replicated)
        self.state = self.before = state._replace(step=step)
        self.stop = start

    def __call__(self, executable) -> Any:
        self.before, self.stop = self.state, self.stop + self.tokens
        self.state, self.own, has_ended = executable(
            self.weights, self.prefilled, self.state, self.own, np.int32(self.stop)
        )
        return has_ended

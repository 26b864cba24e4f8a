"""One GRPO rollout and update of the tiny policy on a mesh, for test_sharding.py.

It runs in one process or in several.

python worker.py POLICY_DIR OUT.npz DATA FSDP TENSOR MICRO_BATCHES gathered|sharded
"""

import functools
import sys

import jax
import numpy as np
import optax

from segr1_jax.config.schema import MeshConfig, PolicyConfig, RunConfig
from segr1_jax.data.config import DataConfig
from segr1_jax.data.pipeline import Sample, batches
from segr1_jax.data.sources import open_source
from segr1_jax.hf.load_weights import load_params, read_arch
from segr1_jax.objective.batch import GroupBatch
from segr1_jax.objective.config import ObjectiveConfig
from segr1_jax.objective.loss import grpo_loss
from segr1_jax.objective.update import TrainBatch
from segr1_jax.policy.params import Params, Policy
from segr1_jax.policy.sharding import TRAIN_RULES
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.prompt.config import PromptConfig
from segr1_jax.rollout.config import RolloutConfig
from segr1_jax.runtime.mesh import Placement, make_mesh
from segr1_jax.runtime.processes import join_processes
from segr1_jax.training.engine import Engine
from segr1_jax.training.micro_batches import Division

GROUP, TOKENS, BATCH = 2, 12, 8
CAPACITIES = (8, 12, 16, 20, GROUP * TOKENS)


def make_engine(directory: str, mesh: MeshConfig, micro_batches: int, weights: str) -> Engine:
    config = RunConfig(
        batch=BATCH,
        micro_batches=micro_batches,
        policy=PolicyConfig(path=directory, compute_dtype="float32", remat="none"),
        prompt=PromptConfig(frame=84, max_tokens=48),
        rollout=RolloutConfig(group=GROUP, max_tokens=TOKENS, weights=weights),
        mesh=mesh,
    )
    builder = PromptBuilder.from_directory(directory, config.prompt)
    return Engine(
        config,
        Placement(make_mesh(mesh)),
        Policy(read_arch(directory)),
        builder,
        optax.trace(decay=0.0),
    )


def run(
    directory: str, mesh: MeshConfig, micro_batches: int, weights: str
) -> dict[str, np.ndarray]:
    """Data order, samples, loss and gradients (the state of an undecayed trace)."""
    engine = make_engine(directory, mesh, micro_batches, weights)
    params = load_params(
        directory, engine.policy, engine.placement.weights(engine.policy.specs, TRAIN_RULES)
    )
    samples = draw_samples(engine)
    prompts = engine.put_prompts([sample.prompt for sample in samples])
    positions = engine.put_positions([sample.position for sample in samples])
    ids = engine.placement.put_rows(np.array([s.example.id for s in samples], np.int32))
    completions = roll_out(engine, params, samples, prompts, positions)

    gradient = engine.gradient(functools.partial(grpo_loss, objective=ObjectiveConfig(beta=0.04)))
    totals = None
    tokens = engine.placement.get_rows(completions.mask).sum(axis=(1, 2))
    # Smaller capacities than a run has, so that completions of this size are packed.
    divide = Division(engine.placement, micro_batches, CAPACITIES)
    for micro in divide(TrainBatch(prompts, completions), tokens):
        totals = gradient(totals, params, {}, micro.batch, micro.capacity)
    state, metrics = engine.moments.update(engine.moments.init(params), totals, 1)

    found = {
        "positions": positions,
        "ids": ids,
        "tokens": completions.tokens,
        "logprobs": completions.sampler_logprobs,
        "reference": completions.reference_logprobs,
    }
    gradients = {f"grad/{name}": value for name, value in state.opt_state.trace.items()}
    figures = {name: np.asarray(value) for name, value in jax.device_get(metrics).items()}
    return _host(engine, found | gradients) | figures


def draw_samples(engine: Engine) -> list[Sample]:
    """This process's share of a batch."""
    source = open_source(DataConfig(size=84, count=50))
    index, count = jax.process_index(), jax.process_count()
    return next(
        batches(
            source,
            engine.builder.build,
            seed=3,
            start_position=16,
            batch=BATCH,
            process=index,
            processes=count,
        )
    )


def roll_out(engine: Engine, params: Params, samples: list[Sample], prompts, positions):
    """Sampled completions, cut to made-up lengths, with made-up advantages.

    Some completions are left out.
    """
    drawn = engine.sampler(
        engine.rollout_weights(params), prompts, engine.rollout_key(1), positions
    )
    ids = [sample.example.id for sample in samples]
    lengths = np.array([[3 + each % 5, 10 - each % 7] for each in ids])
    kept = engine.placement.put_rows(np.arange(TOKENS) < lengths[..., None])
    drawn = drawn._replace(mask=drawn.mask & kept)
    reference = engine.reference_logprobs(
        engine.reference_weights(params, {}), prompts, drawn.tokens, drawn.mask, None
    )
    advantages = np.array([np.sin([each, each + 7.0]) for each in ids], np.float32)
    weight = np.array([[1, each % 3 > 0] for each in ids], np.float32)
    on_mesh = engine.placement.put_rows((weight, advantages))
    return GroupBatch(drawn.tokens, drawn.mask, *on_mesh, drawn.logprobs, reference)


def _host(engine: Engine, tree):
    """Copies of a tree's arrays, whole, on every process."""
    whole = jax.jit(lambda x: x, out_shardings=engine.placement.replicated)(tree)
    return jax.tree.map(lambda x: np.array(x.addressable_data(0)), whole)


if __name__ == "__main__":
    join_processes()
    results = run(sys.argv[1], MeshConfig(*map(int, sys.argv[3:6])), int(sys.argv[6]), sys.argv[7])
    if jax.process_index() == 0:
        np.savez(sys.argv[2], **results)

"""Engines that train less than everything, and what their tests compare."""

import dataclasses
import functools
import tempfile

import jax
import numpy as np

from segr1_jax.config.schema import MeshConfig, PolicyConfig, RunConfig
from segr1_jax.hf.load_weights import load_params, read_arch
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.objective.optimizer import make_optimizer
from segr1_jax.objective.update import init_state
from segr1_jax.policy.config import LoraConfig
from segr1_jax.policy.logprobs import score_tokens
from segr1_jax.policy.params import Policy
from segr1_jax.policy.sharding import TRAIN_RULES
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.prompt.config import PromptConfig
from segr1_jax.rollout.config import RolloutConfig
from segr1_jax.runtime.mesh import Placement, make_mesh
from segr1_jax.training.engine import Engine

LORA = LoraConfig(rank=3, alpha=6.0)
B, T = 8, 5


@functools.cache
def any_builder() -> PromptBuilder:
    """An engine has one; nothing here asks it."""
    with tempfile.TemporaryDirectory() as folder:
        return PromptBuilder.from_directory(
            make_tiny_policy(f"{folder}/tiny", frame=84), PromptConfig(frame=84)
        )


def make_engine(directory, **policy) -> Engine:
    config = RunConfig(
        stage="sft",
        batch=B,
        rollout=RolloutConfig(max_tokens=T),
        policy=PolicyConfig(path=str(directory), compute_dtype="float32", remat="none", **policy),
    )
    config = dataclasses.replace(config, mesh=MeshConfig(2, 2, 2))
    model = Policy(
        read_arch(directory), lora=config.policy.lora if config.policy.lora.rank else None
    )
    return Engine(
        config,
        Placement(make_mesh(config.mesh)),
        model,
        any_builder(),
        make_optimizer(config.optimizer, config.steps),
    )


def load(engine, directory):
    return load_params(
        directory,
        engine.policy.base,
        engine.placement.weights(engine.policy.base.specs, TRAIN_RULES),
    )


def logprobs(policy, params, batch):
    done = batch.completions
    return np.asarray(
        jax.jit(
            lambda p: score_tokens(policy.bind(p), batch.prompts, done.tokens, done.mask).logprobs
        )(params)
    )


def state_at(step, params, optimizer):
    return init_state(params, optimizer)._replace(step=np.int32(step))

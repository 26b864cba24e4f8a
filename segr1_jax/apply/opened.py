"""A trained policy opened for use: its engine and weights, from a run or a Hugging Face directory."""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from segr1_jax.hf.load import read_arch
from segr1_jax.policy.params import Params, Policy
from segr1_jax.policy.sharding import ROLLOUT_RULES
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.train.config import RunConfig
from segr1_jax.train.engine import Engine, compute_dtype
from segr1_jax.train.mesh import Placement, make_mesh
from segr1_jax.train.optimizer import make_optimizer
from segr1_jax.train.start import Start, resolve_start


@dataclasses.dataclass(frozen=True)
class Opened:
    """`params` are the float32 weights, placed for decoding."""

    engine: Engine
    start: Start
    params: Params

    @functools.cached_property
    def rollout_weights(self) -> Params:
        return self.engine.rollout_weights(self.params)


def open_policy(config: RunConfig, source: Path) -> Opened:
    """Read the weights in `source`: the newest checkpoint of a run directory, or a Hugging Face directory.

    Raises:
        UserError: `source` is neither, or holds no finished checkpoint.
    """
    start = resolve_start(source)
    builder = PromptBuilder.from_directory(start.base, config.prompt)
    arch = read_arch(Path(start.base)).knowing(builder.tokenizer.ids)
    policy = Policy(arch, compute_dtype(config))
    engine = Engine(
        config,
        Placement(make_mesh(config.mesh)),
        policy,
        builder,
        make_optimizer(config.optimizer, config.steps),
    )
    engine.check_rows()
    return Opened(
        engine,
        start,
        start.load(policy, engine.placement.weights(policy.specs, ROLLOUT_RULES), np.float32),
    )

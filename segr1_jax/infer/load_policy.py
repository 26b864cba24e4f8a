"""Open a trained policy: engine and weights of a run or a Hugging Face directory."""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from segr1_jax.config.schema import RunConfig
from segr1_jax.hf.load_weights import read_arch
from segr1_jax.objective.optimizer import make_optimizer
from segr1_jax.policy.params import Params, Policy
from segr1_jax.policy.sharding import ROLLOUT_RULES
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.runtime.initial_weights import Start, resolve_start
from segr1_jax.runtime.mesh import Placement, make_mesh
from segr1_jax.training.block_sampler import RolloutWeights
from segr1_jax.training.engine import Engine
from segr1_jax.training.make_engine import compute_dtype


@dataclasses.dataclass(frozen=True)
class Opened:
    """A policy that is ready for use; `params` are float32 weights, sharded for decoding."""

    engine: Engine
    start: Start
    params: Params

    @functools.cached_property
    def rollout_weights(self) -> RolloutWeights:
        return self.engine.rollout_weights(self.params)

    @functools.cached_property
    def own_frames(self) -> Engine:
        """Engine for images in frames of their own shape, at most as large as a fixed frame."""
        prompt, builder = self.engine.config.prompt, self.engine.builder
        if not prompt.frame:
            return self.engine
        area = max(prompt.frame**2, prompt.min_pixels)
        prompt = dataclasses.replace(prompt, frame=0, max_pixels=area)
        return dataclasses.replace(
            self.engine,
            config=dataclasses.replace(self.engine.config, prompt=prompt),
            builder=PromptBuilder(
                builder.tokenizer,
                builder.vision,
                dataclasses.replace(prompt, texts=builder.config.texts),
            ),
        )


def open_policy(config: RunConfig, source: Path) -> Opened:
    """Read the weights in `source`, the newest ones of a run or those of a Hugging Face directory.

    Raises:
        UserError: `source` is neither, or holds no finished checkpoint.
    """
    start = resolve_start(source)
    builder = PromptBuilder.from_directory(start.base, config.prompt, start.texts)
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

"""Make the engine of a run from its configuration."""

import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from segr1_jax.config.schema import RunConfig
from segr1_jax.objective.optimizer import make_optimizer
from segr1_jax.policy.attention import Attention
from segr1_jax.policy.params import Policy
from segr1_jax.policy.qwen2_5_vl.arch import PolicyArch
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.runtime.mesh import Placement
from segr1_jax.train.engine import Engine


def make_engine(
    config: RunConfig, arch: PolicyArch, mesh: Mesh | AbstractMesh, builder: PromptBuilder | None
) -> Engine:
    """Make the engine of a run, for `segr1 train` and `segr1 plan`."""
    lora = config.policy.lora if config.policy.lora.rank else None
    if builder:
        arch = arch.knowing(builder.tokenizer.ids)
    policy = Policy(
        arch, compute_dtype(config), config.policy.remat, lora, Attention(config.policy.attention)
    )
    return Engine(
        config, Placement(mesh), policy, builder, make_optimizer(config.optimizer, config.updates)
    )


def compute_dtype(config: RunConfig) -> jnp.dtype:
    """Return the dtype in which a run computes."""
    return jnp.dtype(config.policy.compute_dtype)

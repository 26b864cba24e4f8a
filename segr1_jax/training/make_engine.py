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
from segr1_jax.training.engine import Engine


def make_engine(
    config: RunConfig, arch: PolicyArch, mesh: Mesh | AbstractMesh, builder: PromptBuilder | None
) -> Engine:
    """Make the engine of a run, for `segr1 train` and `segr1 plan`."""
    lora = config.policy.lora if config.policy.lora.rank else None
    if builder:
        arch = arch.knowing(builder.tokenizer.ids)
    placement, dtype = Placement(mesh), compute_dtype(config)
    attention = Attention(attention_of(config, placement))
    policy = Policy(arch, dtype, config.policy.remat, lora, attention)
    optimizer = make_optimizer(config.optimizer, config.updates)
    return Engine(config, placement, policy, builder, optimizer)


def attention_of(config: RunConfig, placement: Placement) -> str:
    """Return the attention kernel of a run; `auto` is cuDNN on GPUs in bfloat16."""
    if config.policy.attention != "auto":
        return config.policy.attention
    fused = placement.on_gpus and compute_dtype(config) == jnp.bfloat16
    return "cudnn" if fused else "xla"


def compute_dtype(config: RunConfig) -> jnp.dtype:
    """Return the dtype in which a run computes."""
    return jnp.dtype(config.policy.compute_dtype)

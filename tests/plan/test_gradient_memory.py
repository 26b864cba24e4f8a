"""One float32 gradient lives.

Micro-batches are added to it in place, also by the compiled program.
"""

import jax
import pytest
from tiny_arch import CONFIG
from tiny_run import CONFIG as RUN

from segr1_jax.config.loading import load_config
from segr1_jax.plan.program import shard_bytes
from segr1_jax.plan.programs import Programs
from segr1_jax.policy.qwen2_5_vl.arch import arch_from_config
from segr1_jax.runtime.mesh import make_mesh

# Weights that outweigh the activations, as at real size.
WIDE = CONFIG | {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 32,
    "num_attention_heads": 8,
    "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]},
    "vision_config": CONFIG["vision_config"] | {"out_hidden_size": 512},
}
SMALL = [
    *("batch=8", "micro_batches=2", "eval_batch=8", "rollout.group=2", "rollout.max_tokens=8"),
    *("prompt.frame=56", "prompt.max_tokens=32", "policy.remat=full"),
]


@pytest.mark.parametrize("mesh", [["mesh.fsdp=1"], ["mesh.fsdp=2", "mesh.tensor=2"]])
def test_no_second_gradient(mesh):
    config = load_config(RUN, [*SMALL, *mesh])
    devices = jax.devices()[: 4 if len(mesh) > 1 else 1]
    programs = Programs(config, arch_from_config(WIDE), make_mesh(config.mesh, devices))
    gradient = programs.gradient
    memory = gradient.function.lower(*gradient.arguments).compile().memory_analysis()
    one = shard_bytes(programs.totals)
    assert memory.alias_size_in_bytes >= one, "the buffers of the totals are not reused"
    assert memory.temp_size_in_bytes < one / 2, "a second gradient lives beside the totals"

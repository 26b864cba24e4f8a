"""Rules for gathered weights in the compiled programs of a run (hlo.py reads the text)."""

import math
from collections.abc import Mapping

from segr1_jax.plan.hlo import all_gathers, stack_gathers, weight_gathers_in_loops
from segr1_jax.plan.programs import Programs
from segr1_jax.policy.decode_weights import decode_specs
from segr1_jax.policy.params import STACKED, WeightSpec
from segr1_jax.policy.sharding import ROLLOUT_RULES
from segr1_jax.train.block_sampler import decode_layout


def gather_faults(programs: Programs, program: str, text: str) -> list[str]:
    """Return violations in one compiled program.

    No weights are gathered while decoding, and one layer at a time in the update.

    With rollout.weights=sharded gathering while decoding is what was asked for.
    """
    decoding = dict.fromkeys(("sample_block", "answer_block"), weight_gathers_in_loops)
    rules = {"gradient": stack_gathers} | (
        decoding if programs.config.rollout.weights == "gathered" else {}
    )
    if program not in rules or not text:
        return []
    policy = programs.engine.policy
    is_decoding = program in decoding
    specs = decode_specs(policy, decode_layout(programs.engine.placement, policy))
    sizes = gathered_sizes(programs, specs if is_decoding else policy.specs)
    return [f"{program}: {fault}" for fault in rules[program](all_gathers(text), sizes)]


def gathered_sizes(
    programs: Programs, specs: Mapping[str, WeightSpec]
) -> dict[str, tuple[int, ...]]:
    """Return elements of one layer and of the stack of each matrix, gathered over fsdp."""
    sizes = {}
    for name, sharding in programs.engine.placement.weights(specs, ROLLOUT_RULES).items():
        shape = specs[name].shape
        whole = math.prod(sharding.shard_shape(shape))
        if name.startswith(STACKED) and len(shape) == 3:
            sizes[name] = (whole // shape[0], whole)
        elif name.startswith(STACKED) and name.endswith("kernel"):
            # A matrix of an unrolled layer.
            sizes[name] = (whole,)
    return sizes

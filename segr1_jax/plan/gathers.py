"""Rules for gathered weights in the compiled programs of a run (hlo.py reads the text)."""

import math

from segr1_jax.plan.hlo import all_gathers, stack_gathers, weight_gathers_in_loops
from segr1_jax.plan.programs import Programs
from segr1_jax.policy.params import STACKED
from segr1_jax.policy.sharding import ROLLOUT_RULES


def gather_faults(programs: Programs, program: str, text: str) -> list[str]:
    """Return violations in one compiled program.

    No weights are gathered while decoding, and one layer at a time in the update.

    With rollout.weights=sharded gathering while decoding is what was asked for.
    """
    decoding = {"sample": weight_gathers_in_loops, "answer": weight_gathers_in_loops}
    rules = {"gradient": stack_gathers} | (
        decoding if programs.config.rollout.weights == "gathered" else {}
    )
    if program not in rules or not text:
        return []
    sizes = gathered_sizes(programs)
    return [f"{program}: {fault}" for fault in rules[program](all_gathers(text), sizes)]


def gathered_sizes(programs: Programs) -> dict[str, tuple[int, ...]]:
    """Return elements of one layer and of the stack of each matrix, gathered over fsdp."""
    specs = programs.engine.policy.specs
    sizes = {}
    for name, sharding in programs.engine.placement.weights(specs, ROLLOUT_RULES).items():
        shape = specs[name].shape
        if name.startswith(STACKED) and len(shape) == 3:
            whole = math.prod(sharding.shard_shape(shape))
            sizes[name] = (whole // shape[0], whole)
    return sizes

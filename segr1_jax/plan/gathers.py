"""All-gathers of weights in the compiled programs of a run, and the rules for their places.

A run that shards its weights gathers them repeatedly, and the place decides its speed. Decoding
must not gather weights for every token. An update must gather one layer at a time, inside the scan
over layers, never a whole stack.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from segr1_jax.plan.hlo import parse, walk
from segr1_jax.plan.programs import Programs
from segr1_jax.plan.traffic import results_of
from segr1_jax.policy.decode_weights import decode_specs
from segr1_jax.policy.params import STACKED, WeightSpec
from segr1_jax.policy.sharding import ROLLOUT_RULES
from segr1_jax.training.block_sampler import decode_layout


@dataclass(frozen=True)
class Gather:
    """An all-gather: name, result shapes, and the names of the loops around it, outermost first."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    loops: tuple[str, ...]


def all_gathers(text: str) -> list[Gather]:
    """Return the all-gathers of a module, once for each path from the entry computation."""
    return [
        Gather(
            step.instruction.name,
            tuple(array.shape for array in results_of(step.instruction)),
            tuple(loop.name for loop in step.loops),
        )
        for step in walk(parse(text))
        if step.instruction.op in ("all-gather", "all-gather-start")
    ]


def gather_faults(programs: Programs, program: str, text: str) -> list[str]:
    """Return violations in one compiled program.

    Decoding must not gather weights, and the update must gather one layer at a time. With
    rollout.weights=sharded, decoding gathers weights by design, so only the update is checked.
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


def weight_gathers_in_loops(
    gathers: list[Gather], sizes: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Return weights (of `sizes`, element counts by name) that are gathered inside a loop."""
    return [
        f"{gather.name} gathers {name} in {gather.loops[-1]}"
        for gather, name, _ in _of_weights(gathers, sizes)
        if gather.loops
    ]


def stack_gathers(gathers: list[Gather], sizes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return stacks of layers that are gathered whole, and layers gathered outside every loop.

    `sizes`: stacked weight -> element counts of (one layer, the whole stack).
    """
    faults = []
    for gather, name, size in _of_weights(gathers, sizes):
        if size == sizes[name][-1]:
            faults.append(f"{gather.name} gathers the whole stack {name}")
        elif not gather.loops:
            faults.append(f"{gather.name} gathers a layer of {name} outside the scan over layers")
    return faults


def _of_weights(
    gathers: list[Gather], sizes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[Gather, str, int]]:
    """Yield (gather, weight, elements) for each result of as many elements as a weight."""
    names = {size: name for name, each in sizes.items() for size in each}
    for gather in gathers:
        for shape in gather.shapes:
            if math.prod(shape) in names:
                yield gather, names[math.prod(shape)], math.prod(shape)

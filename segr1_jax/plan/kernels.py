"""Kernels of a compiled GPU program: how often each runs, and what it moves and computes.

Collectives are kernels too; `wire` is what one of them receives from other devices.
"""

import math
import re
from dataclasses import dataclass

from segr1_jax.plan.hlo import Instruction, Loop, Module, Step, numbers, parse, walk
from segr1_jax.plan.products import Product, products
from segr1_jax.plan.traffic import Traffic, traffic

NO_KERNEL = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "opt-barrier"),
    *("after-all", "partition-id", "replica-id", "while", "conditional", "call"),
    *("async-start", "async-update"),
}
# Bytes that a device receives, per byte of the whole array and for (devices - 1) / devices of it.
RING = {
    **dict.fromkeys(("all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all"), 1),
    "all-reduce": 2,
}
# Groups along axes of a mesh: mesh['a'=2,'b'=4] {'b', 'a':(1)2}, the latter 2 of the axis.
MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
MESH_AXIS = re.compile(r"('[^']*')=(\d+)")
GROUPED_AXIS = re.compile(r"('[^']*')(?::\(\d+\)(\d+))?")


@dataclass(frozen=True)
class Kernel:
    """A kernel of a program, of which one device executes `times`.

    Attributes:
        loops: loops around it, outermost first.
        traffic: what it moves in the memory of the device.
        products: its matrix products.
        wire: bytes from other devices.
        on_host: whether one side of it is memory of the host.
        source: the operation of the traced program that it came from.
    """

    name: str
    op: str
    loops: tuple[Loop, ...]
    times: float
    traffic: Traffic
    products: tuple[Product, ...]
    wire: float
    on_host: bool
    source: str

    @property
    def bytes(self) -> int:
        return self.traffic.read + self.traffic.written

    @property
    def flops(self) -> int:
        return sum(product.flops for product in self.products)


def kernels(text: str, *, trips: int, true_share: float) -> list[Kernel]:
    """Return the kernels of an optimized HLO module, once for each path from its entry.

    `trips` and `true_share` are those of `walk`.
    """
    module = parse(text)
    return [
        _kernel(module, step)
        for step in walk(module, trips=trips, true_share=true_share)
        if is_kernel(step)
    ]


def is_kernel(step: Step) -> bool:
    """Return whether an executed instruction is a kernel of its own."""
    op = step.instruction.op
    return not (step.fused or op in NO_KERNEL or op.endswith("-done"))


def _kernel(module: Module, step: Step) -> Kernel:
    instruction = step.instruction
    touched = [instruction, *(step.body[name] for name in instruction.operands)]
    return Kernel(
        instruction.name,
        instruction.op,
        step.loops,
        step.times,
        traffic(module, step),
        products(module, step),
        wire_bytes(module, step),
        any(value.on_host for value in touched),
        instruction.source,
    )


def wire_bytes(module: Module, step: Step) -> float:
    """Return the bytes that a device receives in a collective, in a ring; 0 for other kernels."""
    instruction, op = step.instruction, step.instruction.op.removesuffix("-start")
    moved = traffic(module, step)
    if op == "collective-permute":
        return moved.read
    if op not in RING:
        return 0.0
    whole = moved.written if op == "all-gather" else moved.read
    devices = _group(module, instruction)
    return RING[op] * whole * (devices - 1) / devices


def _group(module: Module, instruction: Instruction) -> int:
    """Return the number of devices that take part in a collective together."""
    if mesh := MESH_GROUPS.search(instruction.attributes):
        sizes = dict(MESH_AXIS.findall(mesh[1]))
        return math.prod(int(part or sizes[axis]) for axis, part in GROUPED_AXIS.findall(mesh[2]))
    if iota := re.search(r"replica_groups=\[([\d,]*)\]", instruction.attributes):
        return numbers(iota[1])[-1]
    listed = re.search(r"replica_groups=\{\{([^}]*)\}", instruction.attributes)
    return len(numbers(listed[1])) if listed else module.devices

"""Bytes that a kernel of a compiled GPU program moves.

A fusion reads only what its result needs: if it slices a parameter, it reads only the slice. A
dynamic-update-slice or scatter into a parameter is in place and touches only the update.
"""

import collections
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from segr1_jax.plan.hlo import Array, Computation, Instruction, Module, Step

SLICES = {"dynamic-slice", "slice", "gather"}
IN_PLACE = {"dynamic-update-slice", "scatter"}
# Asynchronous collectives whose result types repeat the operands before the results.
REPEATING = {"all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all"}
# Another name or another view of the same buffer.
VIEWS = {"bitcast", "get-tuple-element"}


@dataclass(frozen=True)
class Traffic:
    """Traffic of a kernel.

    Attributes:
        read: bytes.
        updated: bytes written in place into a larger array.
        results: arrays written whole.
    """

    read: int
    updated: int
    results: tuple[Array, ...]

    @property
    def written(self) -> int:
        return self.updated + sum(array.nbytes for array in self.results)


def traffic(module: Module, step: Step) -> Traffic:
    """Return what the kernel of an executed instruction moves."""
    instruction, body = step.instruction, step.body
    operands = [body[name] for name in instruction.operands if name in body]
    whole = _nbytes(operands)
    op = instruction.op.removesuffix("-start")
    if op == "fusion":
        (inner,) = instruction.called("calls")
        return _Fusion(module, module.computations[inner]).traffic()
    if op in ("copy", "collective-permute"):
        return Traffic(whole, 0, operands[0].arrays)
    if op in REPEATING:
        return Traffic(whole, 0, results_of(instruction))
    if op in SLICES:
        return Traffic(instruction.nbytes, 0, instruction.arrays)
    if op in IN_PLACE:
        updated = _nbytes(_updates(instruction, body))
        return Traffic(updated, updated, ())
    return Traffic(whole, 0, _made(instruction))


def results_of(collective: Instruction) -> tuple[Array, ...]:
    """Return the results of a collective of REPEATING, without the operands that it repeats."""
    repeated = len(collective.operands) if collective.op.endswith("-start") else 0
    return collective.arrays[repeated:]


def _updates(instruction: Instruction, body: Computation) -> list[Instruction]:
    """Return the updates of a dynamic-update-slice or scatter."""
    if instruction.op == "dynamic-update-slice":
        return [body[instruction.operands[1]]]
    count = len(instruction.operands) // 2
    return [body[name] for name in instruction.operands[-count:]]


def _made(instruction: Instruction) -> tuple[Array, ...]:
    """Return the results of an instruction; those in bytes of a library call are its workspace."""
    workspace = ("s8", "u8") if instruction.op == "custom-call" else ()
    return tuple(array for array in instruction.arrays if array.dtype not in workspace)


def _nbytes(values: Iterable[Instruction]) -> int:
    return sum(value.nbytes for value in values)


class _Fusion:
    """Computation of a fusion, of whose result only a fraction is needed."""

    def __init__(self, module: Module, body: Computation, needed: float = 1.0):
        self.module, self.body = module, body
        (root,) = (value for value in body.values() if value.is_root)
        self.outputs = {value.name: value for value in self._outputs(root)}
        self.in_place = {name for name, value in self.outputs.items() if self._is_in_place(value)}
        # Fraction of the elements of each value that is needed. Users come after their operands.
        self.share: dict[str, float] = collections.defaultdict(float, {root.name: needed})
        for user in reversed(body.values()):
            for position, name in enumerate(user.operands):
                share = self.share[name] + self._needed(body[name], user, position)
                self.share[name] = min(share, 1.0)

    def traffic(self) -> Traffic:
        inputs = (value for value in self.body.values() if value.op == "parameter")
        updated = (self.outputs[name] for name in self.in_place)
        made = (value for name, value in self.outputs.items() if name not in self.in_place)
        return Traffic(
            sum(round(value.nbytes * self.share[value.name]) for value in inputs),
            sum(_nbytes(_updates(value, self.body)) for value in updated),
            tuple(array for value in made for array in _made(value)),
        )

    def _needed(self, value: Instruction, user: Instruction, position: int) -> float:
        """Return the share of its operand `value` that `user` needs."""
        share, elements = self.share[user.name], max(value.elements, 1)
        if user.name in self.in_place and position == 0:
            if user.op == "dynamic-update-slice":
                return 0.0
            # A scatter may add to what is there.
            return sum(update.elements for update in _updates(user, self.body)) / elements
        if user.op == "fusion":
            return self._needed_inside(user, position)
        selects = position == 0 and user.op in SLICES | {"dynamic-update-slice"}
        return share * user.elements / elements if selects or user.op == "broadcast" else share

    def _needed_inside(self, user: Instruction, position: int) -> float:
        """Return the share of its operand at `position` that a nested fusion needs."""
        (name,) = user.called("calls")
        inner = _Fusion(self.module, self.module.computations[name], self.share[user.name])
        (parameter,) = (
            value
            for value in inner.body.values()
            if value.op == "parameter" and int(value.arguments) == position
        )
        return inner.share[parameter.name]

    def _outputs(self, value: Instruction) -> Iterator[Instruction]:
        """Yield the values that the fusion writes, without those that are parameters."""
        if value.op == "tuple" or value.op in VIEWS:
            for name in value.operands:
                yield from self._outputs(self.body[name])
        elif value.op != "parameter":
            yield value

    def _is_in_place(self, value: Instruction) -> bool:
        """Return whether a value is a parameter with an update."""
        if value.op not in IN_PLACE:
            return False
        target = self.body[value.operands[0]]
        while target.op in VIEWS:
            target = self.body[target.operands[0]]
        return target.op == "parameter"

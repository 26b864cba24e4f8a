"""All-gathers in the text of an optimised HLO module, and the loops around them.

A run that shards its weights gathers them repeatedly, and the place decides its speed. Decoding
must not gather weights for every token. An update must gather one layer at a time, inside the scan
over layers, never a whole stack.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\(")
CALLED = re.compile(
    r"(?:body|condition|calls|to_apply|called_computations|branch_computations|\w+_computation)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
ARRAY = re.compile(r"[a-z]+\d*\[([\d,]*)\]")
NAME = re.compile(r"[\w.\-]+")


@dataclass(frozen=True)
class Gather:
    """An all-gather: name, result shapes, and the while loops around it, outermost first."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    loops: tuple[str, ...]


def all_gathers(text: str) -> list[Gather]:
    """Return the all-gathers of a module, once for each path from the entry computation."""
    computations, entry = _computations(text)
    return list(_reach(computations, entry, ()))


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


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    computations: dict[str, list[str]] = {}
    entry = current = ""
    for line in text.splitlines():
        if header := HEADER.match(line):
            current = header[2]
            computations[current] = []
            entry = current if header[1] else entry
        elif current and line.startswith(" "):
            computations[current].append(line)
    return computations, entry


def _reach(
    computations: Mapping[str, list[str]], name: str, loops: tuple[str, ...]
) -> Iterator[Gather]:
    for line in computations.get(name, ()):
        found = INSTRUCTION.match(line)
        if not found:
            continue
        instruction, result, kind = found.groups()
        if kind in ("all-gather", "all-gather-start"):
            yield Gather(instruction, tuple(_shape(dims) for dims in ARRAY.findall(result)), loops)
        inside = (*loops, instruction) if kind == "while" else loops
        for called in CALLED.findall(line):
            for target in NAME.findall(called):
                yield from _reach(computations, target, inside)


def _shape(dims: str) -> tuple[int, ...]:
    return tuple(int(size) for size in dims.split(",") if size)

"""Parser of the text of an optimized HLO module, and a walk over what it executes."""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

BYTES = {
    **dict.fromkeys(("token", "opaque"), 0),
    **dict.fromkeys(("pred", "s8", "u8"), 1),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2),
    **dict.fromkeys(("f32", "s32", "u32"), 4),
    **dict.fromkeys(("f64", "s64", "u64", "c64"), 8),
}
HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\(")
OPERAND = re.compile(r"%([\w.\-]+)")
ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
TRIPS = re.compile(r'known_trip_count":\s*\{"n":\s*"(\d+)"')
# The memory space of the host in the layout of an array.
ON_HOST = "S(5)"


@dataclass(frozen=True)
class Array:
    """Type of an array: dtype as HLO spells it (bf16, pred), and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * BYTES[self.dtype]


@dataclass(frozen=True)
class Instruction:
    """An instruction, with the texts of its result type, arguments and attributes."""

    name: str
    type: str
    op: str
    arguments: str
    attributes: str
    is_root: bool

    @functools.cached_property
    def operands(self) -> tuple[str, ...]:
        """Names of the operands."""
        return tuple(OPERAND.findall(self.arguments))

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of the result, one unless it is a tuple."""
        return tuple(Array(dtype, numbers(dims)) for dtype, dims in ARRAY.findall(self.type))

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    @property
    def elements(self) -> int:
        return sum(array.elements for array in self.arrays)

    @property
    def on_host(self) -> bool:
        """True if the result, or a part of it, is in the memory of the host."""
        return ON_HOST in self.type

    @property
    def source(self) -> str:
        """The operation of the traced program that this came from."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    def called(self, *keys: str) -> tuple[str, ...]:
        """Return the computations that the attributes `keys` name."""
        pattern = rf"\b(?:{'|'.join(keys)})=(\{{[^}}]*\}}|%[\w.\-]+)"
        return tuple(OPERAND.findall(" ".join(re.findall(pattern, self.attributes))))


Computation = Mapping[str, Instruction]
"""Instructions by name, in order."""


@dataclass(frozen=True)
class Module:
    """Computations by name, the name of the one that is executed, and the number of devices."""

    computations: Mapping[str, Computation]
    entry: str
    devices: int


@dataclass(frozen=True)
class Loop:
    """A while loop: `count` iterations, which the module states or the caller has assumed."""

    name: str
    count: int
    known: bool
    source: str


@dataclass(frozen=True)
class Step:
    """An executed instruction.

    Attributes:
        body: the computation that it is part of.
        loops: loops around it, outermost first.
        times: how often it is executed.
        fused: whether it is part of a fusion.
    """

    instruction: Instruction
    body: Computation
    loops: tuple[Loop, ...] = ()
    times: float = 1.0
    fused: bool = False


def numbers(text: str) -> tuple[int, ...]:
    """Return the integers of a list such as "1,16,8"."""
    return tuple(int(number) for number in re.findall(r"\d+", text))


def parse(text: str) -> Module:
    """Parse the text of a compiled program."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry = current = ""
    for line in text.splitlines():
        if header := HEADER.match(line):
            current = header[2]
            computations[current] = {}
            entry = current if header[1] else entry
        elif current and (found := INSTRUCTION.match(line)):
            root, name, result, op = found.groups()
            arguments, attributes = _split(line[found.end() :])
            computations[current][name] = Instruction(
                name, result, op, arguments, attributes, bool(root)
            )
    devices = re.search(r"num_partitions=(\d+)", text.partition("\n")[0])
    return Module(computations, entry, int(devices[1]) if devices else 1)


def _split(text: str) -> tuple[str, str]:
    """Split what follows an opening parenthesis at the one that closes it."""
    depth = 1
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return text[:position], text[position + 1 :]
    return text, ""


def walk(module: Module, *, trips: int = 1, true_share: float = 1.0) -> Iterator[Step]:
    """Yield every instruction that the module executes, once for each path from its entry.

    `trips` is the number of iterations of loops whose count is not known (decoding). `true_share`
    is the share of conditionals that take the true branch (the tower: the layers that attend to
    the whole image).
    """
    computations = module.computations

    def inside(name: str, outer: Step) -> Iterator[Step]:
        body = computations.get(name, {})
        for instruction in body.values():
            step = replace(outer, instruction=instruction, body=body)
            yield step
            for target, context in _entered(step, trips, true_share):
                yield from inside(target, context)

    yield from inside(module.entry, Step(Instruction("", "", "", "", "", False), {}))


def _entered(step: Step, trips: int, true_share: float) -> Iterator[tuple[str, Step]]:
    """Yield the computations that an instruction executes, with loops and times inside them."""
    instruction = step.instruction
    if instruction.op == "while":
        known = TRIPS.search(instruction.attributes)
        count = int(known[1]) if known else trips
        loop = Loop(instruction.name, count, known is not None, instruction.source)
        inner = replace(step, loops=(*step.loops, loop), times=step.times * count)
        # The host decides a known count, without a kernel.
        for target in instruction.called("body", *(() if known else ("condition",))):
            yield target, inner
    elif instruction.op == "conditional":
        # By index, jax.lax.cond has its false branch first.
        false, true = instruction.called("branch_computations") or (
            *instruction.called("false_computation"),
            *instruction.called("true_computation"),
        )
        yield true, replace(step, times=step.times * true_share)
        yield false, replace(step, times=step.times * (1 - true_share))
    elif instruction.op in ("fusion", "fusion-start"):
        for target in instruction.called("calls"):
            yield target, replace(step, fused=True)
    else:
        targets = {"call": ("to_apply",)}.get(instruction.op, ("calls",))
        for target in instruction.called(*targets):
            yield target, step

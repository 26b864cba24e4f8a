"""Estimate the temporary memory of a traced program by liveness over its jaxpr, in seconds.

The rules approximate XLA's fusion and buffer assignment. Elementwise work is fused into its reader
and takes no memory unless a matrix product, a loop or a caller needs the result. Views and in-place
updates share the buffer of their operand. A loop holds its stacked results from its beginning, and
the temporaries of one iteration.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jax.extend.core import Jaxpr, JaxprEqn, Literal

from segr1_jax.plan.flops import sub_jaxprs

Size = Callable[[tuple[int, ...], Any], float]
"""Function from (shape, dtype) to bytes on one device."""

INLINED = {
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "remat2",
    "checkpoint",
    "custom_jvp_call",
    "custom_vjp_call",
}
LOOPS = {"scan", "while", "cond"}
# Operands of these are in memory, never fused.
READERS = LOOPS | {"dot_general", "sort", "conv_general_dilated"}
REDUCTIONS = {
    "reduce_sum",
    "reduce_max",
    "reduce_min",
    "reduce_and",
    "reduce_or",
    "argmax",
    "argmin",
    "cumsum",
    "gather",
    "concatenate",
}
VIEWS = {
    "reshape",
    "transpose",
    "squeeze",
    "expand_dims",
    "stop_gradient",
    "copy",
    "broadcast_in_dim",
}
# A donated array under another name.
REFERENCES = {"new_ref", "freeze"}
IN_PLACE = {"scatter", "scatter-add", "dynamic_update_slice", "add_any"}


@dataclass(frozen=True, eq=False)
class Value:
    """One array of the flattened program."""

    shape: tuple[int, ...]
    dtype: Any


@dataclass(frozen=True)
class Node:
    """One equation of the flattened program; `operands` without literals."""

    kind: str
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    eqn: JaxprEqn


def temporary_bytes(jaxpr: Jaxpr, size: Size) -> float:
    """Return the largest sum of temporaries alive at one time, without arguments and results."""
    nodes, _, named = flatten(jaxpr)
    results = [value for value in named if value is not None]
    buffers = _buffers(nodes, results)
    owned = set().union(*(buffers.get(value, frozenset()) for value in results))
    last_use: dict[Value, int] = {}
    for index, node in enumerate(nodes):
        for buffer in itertools.chain(
            *(buffers.get(value, frozenset()) for value in (*node.operands, *node.results))
        ):
            last_use[buffer] = index
    ends: list[list[Value]] = [[] for _ in nodes]
    for buffer, index in last_use.items():
        ends[index].append(buffer)
    live = peak = 0.0
    for index, node in enumerate(nodes):
        made = sum(
            size(value.shape, value.dtype)
            for value in node.results
            if value in buffers.get(value, ()) and value not in owned
        )
        freed = sum(size(value.shape, value.dtype) for value in ends[index] if value not in owned)
        reused = min(made, freed) if node.kind not in READERS else 0.0
        peak = max(peak, live + made - reused + _inside(node, size))
        live += made - freed
    return peak


def _inside(node: Node, size: Size) -> float:
    """Return temporaries of one iteration of a loop, with the slices that it reads."""
    if node.kind not in LOOPS:
        return 0.0
    inner = max((temporary_bytes(sub, size) for sub in sub_jaxprs(node.eqn)), default=0.0)
    if node.kind != "scan":
        return inner
    (body,) = sub_jaxprs(node.eqn)
    sliced = (
        var.aval
        for var, whole in zip(body.invars, node.eqn.invars, strict=True)
        if whole.aval.shape != var.aval.shape
    )
    return inner + sum(size(aval.shape, aval.dtype) for aval in sliced)


def _buffers(nodes: Sequence[Node], results: Sequence[Value]) -> dict[Value, frozenset[Value]]:
    """Return the buffers that each value keeps alive: its own, or those of its inputs if fused."""
    needed = set(results).union(*(node.operands for node in nodes if node.kind in READERS))
    for node in reversed(nodes):  # what is read through a view is needed itself
        if node.kind in VIEWS and needed & set(node.results):
            needed |= set(node.operands)
    buffers: dict[Value, frozenset[Value]] = {}
    for node in nodes:
        below = [buffers.get(value, frozenset()) for value in node.operands]
        aliased = _aliases(node, below)
        fused = node.kind not in READERS | REDUCTIONS
        for index, value in enumerate(node.results):
            if index in aliased:
                buffers[value] = aliased[index]
            elif fused and value not in needed:
                buffers[value] = frozenset().union(*below)
            else:
                buffers[value] = frozenset({value})
    return buffers


def _aliases(node: Node, below: list[frozenset[Value]]) -> dict[int, frozenset[Value]]:
    """Return the buffers that a result shares with an operand."""
    if node.kind in REFERENCES:
        return {0: below[0]}
    if node.kind in VIEWS | IN_PLACE and below and below[0]:
        return {0: below[0]}
    if node.kind in ("scan", "while"):  # what a loop carries is written over
        carried = list(zip(node.operands, below, strict=True))
        shared = {}
        for index, value in enumerate(node.results):
            for place, (operand, buffers) in enumerate(carried):
                if buffers and (operand.shape, operand.dtype) == (value.shape, value.dtype):
                    shared[index] = carried.pop(place)[1]
                    break
        return shared
    return {}


def flatten(
    jaxpr: Jaxpr, arguments: Sequence[Value | None] | None = None
) -> tuple[list[Node], list[Value], list[Value | None]]:
    """Return (nodes, arguments, results) of `jaxpr` with plain calls inlined; a literal is None.

    Loops and conditionals stay whole.
    """
    values: dict[Any, Value | None] = {}
    for var in jaxpr.constvars:
        values[var] = Value(var.aval.shape, var.aval.dtype)
    for var, value in zip(jaxpr.invars, arguments or [None] * len(jaxpr.invars), strict=True):
        values[var] = value or Value(var.aval.shape, var.aval.dtype)

    def read(atoms):
        return [None if isinstance(atom, Literal) else values[atom] for atom in atoms]

    nodes: list[Node] = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in INLINED:
            inner, _, results = flatten(next(sub_jaxprs(eqn)), read(eqn.invars))
            nodes += inner
            values |= dict(zip(eqn.outvars, results, strict=True))
            continue
        values |= {
            var: Value(getattr(var.aval, "shape", ()), getattr(var.aval, "dtype", None))
            for var in eqn.outvars
        }
        operands = tuple(value for value in read(eqn.invars) if value is not None)
        nodes.append(
            Node(eqn.primitive.name, operands, tuple(values[var] for var in eqn.outvars), eqn)
        )
    return nodes, [values[var] for var in jaxpr.invars], read(jaxpr.outvars)


def plain_size(shape: tuple[int, ...], dtype: Any) -> float:
    """Return the bytes of a whole array."""
    return math.prod(shape) * dtype.itemsize

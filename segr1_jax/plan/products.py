"""Matrix products inside the kernels of a compiled GPU program."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from segr1_jax.plan.hlo import Computation, Instruction, Module, Step, numbers

CONTRACTED = re.compile(r'lhs_contracting_dim(?:ension)?s"?[:=]\s*[\[{]([\d", ]*)')
# Shape of the scores of a fused attention: prompts, heads, queries, keys.
SCORES = re.compile(r'intermediate_tensor_shape":.*?"dimensions":\s*\[([^\]]*)\]')
# Products over the scores: the backward pass computes the scores again, and four gradients.
FORWARD, BACKWARD = 2, 5


@dataclass(frozen=True)
class Product:
    """A matrix product: its FLOPs (2 per multiply-add) and the dtype of its left operand."""

    flops: int
    dtype: str


def products(module: Module, step: Step) -> tuple[Product, ...]:
    """Return the matrix products in the kernel of an executed instruction."""
    return tuple(_products(module, step.instruction, step.body))


def _products(module: Module, instruction: Instruction, body: Computation) -> Iterator[Product]:
    if instruction.op in ("fusion", "fusion-start"):
        (name,) = instruction.called("calls")
        inner = module.computations[name]
        for each in inner.values():
            yield from _products(module, each, inner)
    library = instruction.attributes if instruction.op == "custom-call" else ""
    if instruction.op == "dot" or "__cublas$" in library:
        (left,) = body[instruction.operands[0]].arrays
        contracted = numbers(CONTRACTED.search(instruction.attributes)[1])
        inner_size = math.prod(left.shape[axis] for axis in contracted)
        yield Product(2 * instruction.arrays[0].elements * inner_size, left.dtype)
    elif "__cudnn$fmha" in library:
        yield _attention(instruction, body)


def _attention(instruction: Instruction, body: Computation) -> Product:
    """Return the arithmetic of a fused attention: half where it is causal, padding included."""
    (query,) = body[instruction.operands[0]].arrays
    scores = math.prod(numbers(SCORES.search(instruction.attributes)[1]))
    count = BACKWARD if "Backward" in instruction.attributes else FORWARD
    flops = 2 * count * scores * query.shape[-1]
    return Product(flops // 2 if "CAUSAL" in instruction.attributes else flops, query.dtype)

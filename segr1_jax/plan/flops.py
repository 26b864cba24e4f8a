"""FLOPs of the matrix products of a traced program, including loops.

A compiler's own count includes every loop body only once.
"""

import math
from collections.abc import Iterator

from jax.extend.core import Jaxpr, JaxprEqn


def matmul_flops(jaxpr: Jaxpr, *, trips: int, true_share: float) -> float:
    """Return the FLOPs of all matrix products: 2 per multiply-add, 0 for elementwise work.

    `trips` is the number of iterations of each while loop (decoding: the longest completion).
    `true_share` is the share of `cond`s that take the true branch (the tower: the layers that
    attend to the whole image).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> traced = jax.jit(lambda a, b: a @ b).trace(jnp.ones((2, 3)), jnp.ones((3, 5)))
        >>> matmul_flops(traced.jaxpr.jaxpr, trips=1, true_share=1.0)
        60.0
    """
    return float(sum(_flops(eqn, trips, true_share) for eqn in jaxpr.eqns))


def _flops(eqn: JaxprEqn, trips: int, true_share: float) -> float:
    if eqn.primitive.name == "dot_general":
        return _dot_flops(eqn)
    inner = [matmul_flops(sub, trips=trips, true_share=true_share) for sub in sub_jaxprs(eqn)]
    if eqn.primitive.name == "cond":
        false, true = inner
        return true_share * true + (1 - true_share) * false
    return sum(inner) * {"scan": eqn.params.get("length"), "while": trips}.get(
        eqn.primitive.name, 1
    )


def _dot_flops(eqn: JaxprEqn) -> float:
    left, right = (var.aval.shape for var in eqn.invars)
    (_, contracted), (_, batched) = eqn.params["dimension_numbers"]
    return (
        2
        * math.prod(left)
        * math.prod(size for axis, size in enumerate(right) if axis not in (*contracted, *batched))
    )


def sub_jaxprs(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """Return the jaxprs in the parameters of an equation (bodies, branches, calls), in order."""
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)
            if isinstance(item, Jaxpr):
                yield item

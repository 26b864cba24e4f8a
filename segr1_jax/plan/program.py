"""A jitted function with the shapes of its arguments, and the bytes of such shapes."""

import math
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Program:
    """A jitted function of Engine, the shapes of its arguments, and its calls per step."""

    name: str
    function: Any
    arguments: tuple
    calls: int = 1


def shard_bytes(tree) -> float:
    """Return the bytes on one device of a tree of shapes with shardings."""
    return float(
        sum(
            math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
            for x in jax.tree.leaves(tree)
        )
    )

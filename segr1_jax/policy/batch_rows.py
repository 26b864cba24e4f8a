"""Where the rows of a batch live while a program computes with them."""

from typing import Any

import jax
from jax.sharding import PartitionSpec

BATCH = PartitionSpec(("data", "fsdp"))
"""Batches are split over data and fsdp, repeated over tensor."""


def split_rows(tree: Any) -> Any:
    """Arrays of B rows, held to be split over the mesh that `use_abstract_mesh` put around the trace; unchanged where there is none.

    Weights are split over fsdp too. Left to itself the compiler may leave them so and gather the whole batch on every device instead,
    which multiplies the activations, and the work that is not a matrix product, by the number of devices.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, BATCH), tree)

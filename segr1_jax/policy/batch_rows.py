"""Sharding of the rows of a batch inside a compiled program."""

from typing import Any

import jax
from jax.sharding import PartitionSpec

BATCH = PartitionSpec(("data", "fsdp"))
"""Batches are split over data and fsdp, and replicated over tensor."""


def split_rows(tree: Any, axis: int = 0) -> Any:
    """Constrain arrays to be split by rows over the mesh that `use_abstract_mesh` set.

    `axis` is the axis of the B rows. Without a mesh the arrays are unchanged. Weights are split
    over fsdp too: without the constraint the compiler may keep them split and gather the whole
    batch on every device instead, which multiplies the activations, and all work except matrix
    products, by the number of devices.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    spec = PartitionSpec(*[None] * axis, *BATCH)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), tree)

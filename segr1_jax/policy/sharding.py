"""Tables of rules that map the logical axes of weights to mesh axes.

A weight declares its axis names where it is created (layers.py: `weight`); runtime/mesh.py creates
the mesh.
"""

from collections.abc import Mapping

from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from segr1_jax.policy.params import WeightSpec

TRAIN_RULES = {
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "vocab": "tensor",
}
"""Rules for master weights, gradients and optimizer state: split over fsdp and tensor."""

ROLLOUT_RULES = TRAIN_RULES | {"embed": None}
"""Rules for the weights of decoding: gathered over fsdp, still split over tensor.

Weights split over fsdp would be gathered again for every token.
"""


def weight_shardings(
    specs: Mapping[str, WeightSpec], mesh: Mesh | AbstractMesh, rules: Mapping[str, str | None]
) -> dict[str, NamedSharding]:
    """Return a NamedSharding per weight.

    An axis whose size is not divisible by the size of its mesh axis is not split.
    """

    def mesh_axis(size: int, name: str | None) -> str | None:
        axis = rules.get(name) if name else None
        return axis if axis and size % mesh.shape[axis] == 0 else None

    def partition(spec: WeightSpec) -> PartitionSpec:
        axes = zip(spec.shape, spec.axes, strict=True)
        return PartitionSpec(*(mesh_axis(size, name) for size, name in axes))

    return {name: NamedSharding(mesh, partition(spec)) for name, spec in specs.items()}

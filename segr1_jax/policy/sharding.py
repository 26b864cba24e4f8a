"""Rules tables: which mesh axis carries which logical axis of a weight.

Axis names of weights are declared where the weight is (layers.py: `weight`); the mesh itself is made in runtime/mesh.py.
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
"""Master weights, gradients and optimiser state: split over fsdp and tensor."""

ROLLOUT_RULES = TRAIN_RULES | {"embed": None}
"""Weights while decoding: gathered over fsdp (else every token would gather them again), still split over tensor."""


def weight_shardings(
    specs: Mapping[str, WeightSpec], mesh: Mesh | AbstractMesh, rules: Mapping[str, str | None]
) -> dict[str, NamedSharding]:
    """A NamedSharding per weight. An axis whose size the mesh axis does not divide stays whole."""

    def place(size: int, name: str | None) -> str | None:
        axis = rules.get(name) if name else None
        return axis if axis and size % mesh.shape[axis] == 0 else None

    return {
        name: NamedSharding(
            mesh,
            PartitionSpec(
                *(place(size, axis) for size, axis in zip(spec.shape, spec.axes, strict=True))
            ),
        )
        for name, spec in specs.items()
    }

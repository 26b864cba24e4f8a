"""The device mesh, and the transfer of rows between hosts and the mesh.

Every process has its own rows of a batch, the slice that the data order assigns to it. The rows of
all processes form one global array.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from segr1_jax.config.schema import MeshConfig
from segr1_jax.errors import UserError
from segr1_jax.objective.update import Skips, TrainState
from segr1_jax.policy.batch_rows import BATCH
from segr1_jax.policy.params import Params, WeightSpec
from segr1_jax.policy.sharding import TRAIN_RULES, weight_shardings

AXES = ("data", "fsdp", "tensor")
AXIS_TYPES = (AxisType.Auto,) * len(AXES)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return the mesh of `devices`, by default all devices of all processes.

    Its axes are Auto: the compiler propagates shardings.

    Raises:
        UserError: the product of the sizes is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config, len(devices))
    if len({device.process_index for device in devices}) > 1:
        return Mesh(host_by_host(devices).reshape(shape), AXES, axis_types=AXIS_TYPES)
    return jax.make_mesh(shape, AXES, axis_types=AXIS_TYPES, devices=devices)


def host_by_host(devices: Sequence[Any]) -> np.ndarray:
    """Return the devices sorted by process, so that every tensor group is inside one process.

    Each process loads whole rows of the batch, so its devices must form whole tensor groups.
    `jax.make_mesh` considers only the torus of a TPU slice: of 8 x 8 v5e chips on hosts of 2 x 2 it
    places a group of 4 along one axis of the torus, across two hosts.
    """
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return np.array(ordered, dtype=object)


def mesh_shape(config: MeshConfig, count: int) -> tuple[int, ...]:
    """Return the sizes of AXES, or raise UserError if their product is not `count`."""
    sizes = [getattr(config, axis) for axis in AXES]
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = count // math.prod(size for size in sizes if size != -1)
    if math.prod(sizes) != count or min(sizes) < 1:
        shape = " x ".join(f"{axis}={getattr(config, axis)}" for axis in AXES)
        raise UserError(
            "mesh",
            expected=f"sizes that multiply to {count} devices",
            got=shape,
            remedy="set one axis to -1, which takes the remainder",
        )
    return tuple(sizes)


def check_tensor_groups(tensor: int, owners: Sequence[int]) -> None:
    """Raise UserError unless every tensor group is inside one process.

    `owners` has the process of each device, in mesh order.
    """
    groups = np.asarray(owners).reshape(-1, tensor)
    if (groups != groups[:, :1]).any():
        smallest = min(Counter(owners).values())
        raise UserError(
            "mesh.tensor",
            expected="every tensor group inside one process, which loads whole rows of the batch",
            got=f"mesh.tensor={tensor} on processes of {smallest} devices",
            remedy=f"set mesh.tensor to a divisor of {smallest}",
        )


@dataclass(frozen=True)
class Placement:
    """Shardings of batches, weights and state on a mesh."""

    mesh: Mesh | AbstractMesh

    @property
    def abstract_mesh(self) -> AbstractMesh:
        """The mesh without its devices."""
        return self.mesh if isinstance(self.mesh, AbstractMesh) else self.mesh.abstract_mesh

    @property
    def on_gpus(self) -> bool:
        """True on NVIDIA GPUs, and on a topology of them; False for a mesh without devices."""
        known = isinstance(self.mesh, Mesh)
        return known and self.mesh.devices.flat[0].platform in ("gpu", "cuda")

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of arrays that every device has complete."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def rows(self) -> NamedSharding:
        """The sharding of the rows of a batch over data and fsdp."""
        return NamedSharding(self.mesh, BATCH)

    def rows_of(self, leading: int, *trailing: str | None) -> NamedSharding:
        """Return `rows` for arrays with `leading` axes before the rows, and the axes after them."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * leading, *BATCH, *trailing))

    @property
    def row_shards(self) -> int:
        """The number of parts of a batch; every batch size must be a multiple of it."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    def weights(
        self, specs: Mapping[str, WeightSpec], rules: dict[str, str | None]
    ) -> dict[str, NamedSharding]:
        """Return the sharding of every weight under `rules` (logical axis -> mesh axis)."""
        return weight_shardings(specs, self.mesh, rules)

    def state(
        self,
        specs: Mapping[str, WeightSpec],
        optimizer: optax.GradientTransformation,
        *,
        moments_on_host: bool = False,
    ) -> TrainState:
        """Return the sharding of every leaf of a TrainState.

        The moments of the optimizer have the shardings of their weights.
        """

        def of_moment(_: Any, sharding: NamedSharding) -> NamedSharding:
            return sharding.with_memory_kind("pinned_host") if moments_on_host else sharding

        weights = self.weights(specs, TRAIN_RULES)
        shapes: Params = {
            name: jax.ShapeDtypeStruct(spec.shape, np.float32) for name, spec in specs.items()
        }
        opt_state = optax.tree_utils.tree_map_params(
            optimizer,
            of_moment,
            jax.eval_shape(optimizer.init, shapes),
            weights,
            transform_non_params=lambda _: self.replicated,
        )
        return TrainState(
            weights, opt_state, self.replicated, Skips(self.replicated, self.replicated)
        )

    def check_sizes(self, **sizes: int) -> None:
        """Raise UserError unless batches of these sizes split evenly."""
        for field, size in sizes.items():
            if size % self.row_shards:
                raise UserError(
                    field,
                    expected=f"rows for data x fsdp = {self.row_shards} shards",
                    got=str(size),
                    remedy=f"make {field} a multiple of {self.row_shards} (in each micro-batch), "
                    "or use more devices for mesh.tensor",
                )

    def check_rows(self, **sizes: int) -> None:
        """Raise UserError unless such batches split evenly and each process has its own rows."""
        self.check_sizes(**sizes)
        owners = [device.process_index for device in self.mesh.devices.flat]
        check_tensor_groups(self.mesh.shape["tensor"], owners)

    def put_rows(self, local: Any) -> Any:
        """Return global arrays, split over the mesh, from this process's rows of each array."""
        return jax.tree.map(
            lambda rows: jax.make_array_from_process_local_data(self.rows, np.asarray(rows)), local
        )

    def get_rows(self, tree: Any) -> Any:
        """Return this process's rows of global arrays, in order, as numpy."""
        return jax.tree.map(_local_rows, tree)


def _local_rows(array: jax.Array) -> np.ndarray:
    if array.is_fully_addressable:
        return np.asarray(array)
    # Replicas of a row shard (over the tensor axis) have the same start: one of them is kept.
    by_start = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(by_start[start]) for start in sorted(by_start)])


def sum_over_processes(values: np.ndarray) -> np.ndarray:
    """Return the elementwise sum of a small array over all processes, the same in each.

    With several processes the result is float32.
    """
    if jax.process_count() == 1:
        return values
    return np.asarray(multihost_utils.process_allgather(values)).sum(axis=0)


def max_over_processes(value: int) -> int:
    """Return the largest value of all processes, the same in each."""
    return int(maxima_over_processes(np.array(value)))


def maxima_over_processes(values: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
    """Return the elementwise maximum of a small array over all processes, the same in each."""
    if jax.process_count() == 1:
        return values
    return np.asarray(multihost_utils.process_allgather(values.astype(np.int32))).max(axis=0)

"""Tensor groups lie inside one host on every slice that a shipped configuration names."""

from dataclasses import dataclass

import jax
import pytest

from segr1_jax.config.schema import MeshConfig
from segr1_jax.errors import UserError
from segr1_jax.plan.topology import topology_devices
from segr1_jax.runtime.mesh import Placement, check_tensor_groups, host_by_host, make_mesh


@dataclass(frozen=True)
class Chip:
    """What JAX tells of a device: ids go along the rows of the slice, across the hosts."""

    id: int
    process_index: int


def tpu_slice(size: tuple[int, int], host: tuple[int, int]) -> list[Chip]:
    """Chips of a slice of `size` whose hosts hold blocks of `host`."""
    rows, columns = size
    return [
        Chip(row * columns + column, row // host[0] * (columns // host[1]) + column // host[1])
        for row in range(rows)
        for column in range(columns)
    ]


@pytest.mark.parametrize(
    ("chips", "tensor"),
    [
        (tpu_slice((8, 8), (2, 2)), 4),
        (tpu_slice((8, 8), (2, 2)), 2),
        (tpu_slice((4, 4), (2, 2)), 4),
        (tpu_slice((16, 4), (2, 2)), 4),  # v5p:4x4x4, its planes one below the other
        (tpu_slice((2, 8), (1, 8)), 8),  # two hosts of 8 GPUs
    ],
)
def test_a_tensor_group_lies_in_one_host(chips, tensor):
    groups = host_by_host(chips).reshape(-1, tensor)
    assert sorted(chip.id for chip in groups.ravel()) == [chip.id for chip in chips]
    assert all(len({chip.process_index for chip in group}) == 1 for group in groups)


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:8x8", "v5e:4x4", "v5p:4x4x4"])
def test_a_tensor_group_lies_in_one_host_of_a_real_topology(topology):
    """libtpu knows the hosts of a slice that is not attached; `jax.make_mesh` is refused."""
    pytest.importorskip("libtpu", reason="libtpu comes with the extra `tpu`")
    devices = topology_devices(topology)
    batch = 4 * len(devices)
    Placement(make_mesh(MeshConfig(fsdp=-1, tensor=4), devices)).check_rows(batch=batch)
    torus = jax.make_mesh((len(devices) // 4, 4), ("fsdp", "tensor"), devices=devices)
    with pytest.raises(UserError, match="inside one process"):
        check_tensor_groups(4, [device.process_index for device in torus.devices.flat])

"""Accelerators: the hardware section of a configuration, and the specifications of each kind."""

import math
import os
from dataclasses import dataclass
from typing import Literal

from segr1_jax.common.config_fields import knob, require_range
from segr1_jax.errors import UserError

GIB = 2.0**30


@dataclass(frozen=True)
class Device:
    """Specifications of an accelerator. Unknown speeds are NaN.

    Attributes:
        memory: bytes.
        flops: dense bfloat16 FLOP/s.
        bandwidth: memory bandwidth, in bytes/s.
        jax_share: share of the memory that JAX takes by default.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    jax_share: float


# GPUs: NVIDIA's data sheets (SXM modules, dense bfloat16) and JAX's default preallocation of 75 %,
# which a sidecar on the same GPU replaces (RewardConfig.share_of_jax).
# TPUs: Google Cloud's pages of the v5e (the compiler can allocate 15.75 of its 16 GiB) and v5p.
_KNOWN = (
    Device("a100", 80 * GIB, 312e12, 2.039e12, 0.75),
    Device("h100", 80e9, 989.4e12, 3.35e12, 0.75),
    Device("h200", 141e9, 989.4e12, 4.8e12, 0.75),
    Device("v5e", 15.75 * GIB, 197e12, 819e9, 1.0),
    Device("v5p", 95 * GIB, 459e12, 2.765e12, 1.0),
)
DEVICES = {device.name: device for device in _KNOWN}
TPUS = ("v5e", "v5p")
KINDS = (*DEVICES, "cpu")


@dataclass(frozen=True)
class HardwareConfig:
    """Hardware that `segr1 plan` assumes. A run uses the devices that are available."""

    kind: Literal["", *KINDS] = knob(
        "", f"accelerator: one of {', '.join(KINDS)}; empty = not specified"
    )
    hosts: int = knob(1, "hosts of the run, one process on each")
    chips: int = knob(1, "accelerators of each host")

    def __post_init__(self):
        require_range("hardware.hosts", self.hosts, 1)
        require_range("hardware.chips", self.chips, 1)

    @property
    def devices(self) -> int:
        """The number of accelerators on all hosts."""
        return self.hosts * self.chips


def device_named(kind: str) -> Device:
    """Return the device for a `hardware.kind`; the memory of a CPU is that of this host.

    Raises:
        UserError: the kind is empty or unknown.
    """
    if kind == "cpu":
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return Device("cpu", memory, math.nan, math.nan, jax_share=1.0)
    if kind not in DEVICES:
        raise UserError(
            "hardware.kind",
            expected=f"one of {', '.join(KINDS)}",
            got=repr(kind),
            remedy="set it, with hardware.hosts and hardware.chips, for example "
            "hardware.kind=h100 hardware.chips=8",
        )
    return DEVICES[kind]

"""Accelerators: what a configuration says of its hardware, and what is known of each kind."""

import math
import os
from dataclasses import dataclass

from segr1_jax.common.config_fields import knob, require_choice, require_range
from segr1_jax.errors import UserError

GIB = 2.0**30


@dataclass(frozen=True)
class Device:
    """Attributes: memory in bytes; dense bfloat16 FLOP/s; memory bandwidth in bytes/s; share of the memory that JAX takes by default.

    Speeds that are not known are NaN.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    jax_share: float


# GPUs: NVIDIA's data sheets (SXM modules, dense bfloat16), JAX's preallocation of 75 % where no sidecar leaves it another share.
# TPUs: Google Cloud's pages of the v5e (of its 16 GiB the compiler hands out 15.75) and v5p.
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
    """What `segr1 plan` reckons with. A run takes the devices that it finds."""

    kind: str = knob("", f"accelerator: one of {', '.join(KINDS)}; empty = not said")
    hosts: int = knob(1, "hosts of the run, one process on each")
    chips: int = knob(1, "accelerators of each host")

    def __post_init__(self):
        require_choice("hardware.kind", self.kind, ("", *KINDS))
        require_range("hardware.hosts", self.hosts, 1)
        require_range("hardware.chips", self.chips, 1)

    @property
    def devices(self) -> int:
        return self.hosts * self.chips


def device_named(kind: str) -> Device:
    """The device of a `hardware.kind`; a CPU has the memory of this host.

    Raises:
        UserError: no kind, or one that is not known.
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

"""Accelerators as data: memory, speed, bandwidth of one device."""

from dataclasses import dataclass

from segr1_jax.errors import UserError

GIB = 2.0**30


@dataclass(frozen=True)
class Device:
    """Attributes: memory in bytes; dense bfloat16 FLOP/s; memory bandwidth in bytes/s; share of the memory that JAX takes by default."""

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


def device_named(name: str) -> Device:
    """The entry of DEVICES. Raises UserError for another name."""
    if name not in DEVICES:
        raise UserError(
            "--device",
            expected=f"one of {', '.join(DEVICES)}",
            got=repr(name),
            remedy="add it to segr1_jax/plan/devices.py",
        )
    return DEVICES[name]

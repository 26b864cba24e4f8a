"""Lower bound (roofline) on the time of the kernels of a compiled GPU program.

A kernel takes one launch plus the longer of its memory time and its arithmetic time. Kernels and
collectives run one after another. Caches, gaps between kernels and autotuning are ignored.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from segr1_jax.config.hardware import DEVICES, Device
from segr1_jax.plan.hlo import Loop
from segr1_jax.plan.kernels import Kernel

# Measured on an H100: bytes/s of a copy, FLOP/s of bfloat16 products, and of float32 products,
# which run as TF32.
H100_BANDWIDTH, H100_BF16, H100_F32 = 2.8e12, 650e12, 350e12
HALF = ("bf16", "f16")
# Bytes/s that a GPU receives over NVLink. An assumption: NCCL's rings reach 80 % of the 450 GB/s
# each way of an H100 or H200 (A100: 300), also between hosts.
NVLINK = {"a100": 0.8 * 300e9, "h100": 0.8 * 450e9, "h200": 0.8 * 450e9}
# Bytes/s between the GPU and pinned memory of its host, each way.
HOST = 50e9
LAUNCH = 2e-6


@dataclass(frozen=True)
class Ceilings:
    """Rates that a device reaches: bytes/s of its memory, FLOP/s by dtype, bytes/s of NVLink."""

    bandwidth: float
    half: float
    single: float
    nvlink: float

    def seconds(self, kernel: Kernel) -> float:
        """Return the seconds of one execution of a kernel."""
        moved = kernel.traffic
        over_bus = max(moved.read, moved.written) / HOST
        memory = over_bus if kernel.on_host else kernel.bytes / self.bandwidth
        arithmetic = sum(
            product.flops / (self.half if product.dtype in HALF else self.single)
            for product in kernel.products
        )
        return max(memory, arithmetic, kernel.wire / self.nvlink) + LAUNCH


def ceilings(device: Device) -> Ceilings | None:
    """Return the ceilings of a GPU, scaled from an H100 by the data sheets; None for others."""
    if device.name not in NVLINK:
        return None
    h100 = DEVICES["h100"]
    memory, arithmetic = device.bandwidth / h100.bandwidth, device.flops / h100.flops
    return Ceilings(
        H100_BANDWIDTH * memory,
        H100_BF16 * arithmetic,
        H100_F32 * arithmetic,
        NVLINK[device.name],
    )


@dataclass(frozen=True)
class Cost:
    """Sums over kernels, each as often as it runs.

    Attributes:
        kernels: launches.
        bytes: moved in the memory of the device, or between it and its host.
        wire: bytes from other devices.
        collectives: seconds of the collectives among `seconds`.
    """

    kernels: float
    bytes: float
    flops: float
    wire: float
    collectives: float
    seconds: float

    def __mul__(self, count: float) -> "Cost":
        return Cost(*(count * figure for figure in dataclasses.astuple(self)))

    def __add__(self, other: "Cost") -> "Cost":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Cost(*(figure + part for figure, part in pairs))

    def __sub__(self, other: "Cost") -> "Cost":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Cost(*(figure - part for figure, part in pairs))


@dataclass(frozen=True)
class LoopCost:
    """A loop of a program and the cost of one iteration, with the loops inside it."""

    loop: Loop
    iteration: Cost


@dataclass(frozen=True)
class Roofline:
    """Cost of one call of a program on one device, and of its loops."""

    total: Cost
    loops: tuple[LoopCost, ...]

    @property
    def decoding(self) -> Cost:
        """Cost of decoding: the loop whose count is not known in advance, a token each."""
        (decoding,) = (each for each in self.loops if not each.loop.known)
        return decoding.iteration * decoding.loop.count


def roofline(found: Sequence[Kernel], at: Ceilings) -> Roofline:
    """Return what a program of these kernels costs at least."""
    paths = dict.fromkeys(
        kernel.loops[:depth] for kernel in found for depth in range(1, len(kernel.loops) + 1)
    )
    return Roofline(_cost(found, at), tuple(_loop_cost(path, found, at) for path in paths))


def _loop_cost(path: tuple[Loop, ...], found: Sequence[Kernel], at: Ceilings) -> LoopCost:
    inside = [kernel for kernel in found if kernel.loops[: len(path)] == path]
    return LoopCost(path[-1], _cost(inside, at, math.prod(loop.count for loop in path)))


def _cost(found: Sequence[Kernel], at: Ceilings, iterations: float = 1.0) -> Cost:
    def total(figure: Callable[[Kernel], float]) -> float:
        return sum(kernel.times * figure(kernel) for kernel in found) / iterations

    return Cost(
        kernels=total(lambda kernel: 1),
        bytes=total(lambda kernel: kernel.bytes),
        flops=total(lambda kernel: kernel.flops),
        wire=total(lambda kernel: kernel.wire),
        collectives=total(lambda kernel: at.seconds(kernel) if kernel.wire else 0.0),
        seconds=total(at.seconds),
    )

"""Tokens, FLOPs and expected seconds of one training step, per device.

Without compiled programs, the time of a phase is the longer of its arithmetic time and its memory
time at typical fractions of the data sheet's rates, and communication is ignored. For programs
compiled for GPUs it is the roofline. Input and idle time are also ignored, so a measured step takes
longer.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from segr1_jax.config.hardware import DEVICES, Device
from segr1_jax.config.schema import RunConfig
from segr1_jax.plan.program import shard_bytes
from segr1_jax.plan.programs import Programs
from segr1_jax.plan.roofline import HOST, Cost, Roofline
from segr1_jax.reward.config import RewardConfig
from segr1_jax.training.moments import STEP_OF

# Share of the peak FLOP/s that large matrix products reach: 380 of an H100's 989 TFLOP/s.
MATMUL_SHARE = 0.38
# Share of the peak bandwidth that streaming weights reaches: 3.0 of an H100's 3.35 TB/s.
BANDWIDTH_SHARE = 0.9
# AdamW reads weight, gradient and two moments, and writes weight and moments.
OPTIMIZER_PASSES = 7

# Frames per second on one A100 in the table of the sam2 package's README (v2.1, compiled). A frame
# there also pays for memory attention, which a single image does not have.
SAM2_FPS = {
    "sam2.1_hiera_t": 91.2,
    "sam2.1_hiera_s": 84.8,
    "sam2.1_hiera_b+": 64.1,
    "sam2.1_hiera_l": 39.5,
}
# The rate of the copies to and from the host is that of these devices.
HOPPER = ("h100", "h200")
# Duration of a mask decode in frames. It is an assumption: launches bound it, and no figure of it
# is published.
DECODE_FRAMES = 0.2


@dataclass(frozen=True)
class Phase:
    """One phase of a step on one device: FLOPs, bytes moved, seconds (None if unknown)."""

    name: str
    flops: float
    bytes: float
    seconds: float | None


@dataclass(frozen=True)
class Tokens:
    """Tokens and patches of a step over all devices.

    Prompts have prompt.max_tokens, completions rollout.max_tokens or the length that was given.
    `capacity` are the completion tokens of a prompt that reference and update compute.
    """

    prompts: int
    completions: int
    patches: int
    capacity: int


def tokens_per_step(programs: Programs) -> Tokens:
    config = programs.config
    windows, slots = programs.pixels(config.batch).images.mask.shape[1:]
    each = programs.answer_tokens or config.rollout.max_tokens
    return Tokens(
        config.batch * config.prompt.max_tokens,
        config.batch * programs.engine.group * each,
        config.batch * windows * slots,
        programs.capacity,
    )


def phases(programs: Programs, device: Device, flops: Mapping[str, float]) -> list[Phase]:
    """Return the phases of a step; `flops` are those of one call of each program."""
    config = programs.config
    optimizer = OPTIMIZER_PASSES * shard_bytes(programs.state.params)
    gradient = flops["gradient"] * config.micro_batches
    work = {"tower": (flops.get("features", 0.0), 0.0)}
    if config.stage == "grpo":
        read = config.rollout.max_tokens * decode_bytes(programs)
        work |= {
            "prefill": (flops["sample_prefill"], 0.0),
            "decode": (flops["sample_block"], read),
            "reference": (flops.get("reference_logprobs", 0.0) * config.micro_batches, 0.0),
        }
    work |= {"update": (gradient, 0.0), "optimizer": (0.0, optimizer)}
    return [
        Phase(name, flops, moved, _seconds(device, flops, moved))
        for name, (flops, moved) in work.items()
        if flops or moved
    ]


def compiled_phases(
    config: RunConfig, rooflines: Mapping[str, Roofline], largest_weights: float = 0.0
) -> list[Phase]:
    """Return the phases of a step on its devices, from the rooflines of its compiled programs.

    Where an update goes weight by weight, all of them are `largest_weights` of the largest.
    """
    work = {
        name: rooflines[program].total
        for name, program in (("tower", "features"), ("rollout copy", "decode_weights"))
        if program in rooflines
    }
    if config.stage == "grpo":
        work |= {
            "prefill": rooflines["sample_prefill"].total,
            "decode": rooflines["sample_block"].decoding,
        }
        if "reference_logprobs" in rooflines:
            work["reference"] = rooflines["reference_logprobs"].total * config.micro_batches
    work |= {
        "update": rooflines["gradient"].total * config.micro_batches,
        "optimizer": _optimizer(rooflines, largest_weights),
    }
    return [Phase(name, cost.flops, cost.bytes, cost.seconds) for name, cost in work.items()]


def _optimizer(rooflines: Mapping[str, Roofline], largest_weights: float) -> Cost:
    if not largest_weights:
        return rooflines["update"].total
    (step,) = (found.total for name, found in rooflines.items() if name.startswith(STEP_OF))
    return rooflines["clip_gradient"].total + step * largest_weights


def host_copies(programs: Programs, device: Device) -> list[Phase]:
    """Return the phase in which moments on the host are copied to the devices and back."""
    if not (pinned := programs.pinned_moments):
        return []
    seconds = pinned.copied / HOST if device.name in HOPPER else None
    return [Phase("host copies", 0.0, pinned.copied, seconds)]


def sam2_phase(programs: Programs, device: Device) -> list[Phase]:
    """Return the phase of the sidecars, which runs beside the others; none without rewards."""
    if programs.config.stage != "grpo":
        return []
    return [Phase("SAM2", 0.0, 0.0, sam2_seconds(programs, device))]


def decode_bytes(programs: Programs) -> float:
    """Return bytes that decoding a token reads: language model, prefix K/V, half of its own K/V."""
    tied = programs.arch.text.tied_head
    read = {name: x for name, x in programs.rollout_copy.items() if name != "embed" or tied}
    prefilled, own = programs.decode.arguments[1], programs.decode.arguments[3]
    prefix = (prefilled.prefix.k, prefilled.prefix.v)
    return shard_bytes(read) + shard_bytes(prefix) + shard_bytes(own) / 2


def sam2_seconds(programs: Programs, device: Device) -> float | None:
    """Return seconds of SAM2 for one step on its GPUs, without overlap; None for other models."""
    config, gpus = programs.config, {*sidecars_on(programs).devices} - {"cpu"}
    speed = SAM2_FPS.get(PurePath(config.reward.sam2_config).stem)
    if speed is None or not gpus:
        return None
    frames = config.batch * (1 + DECODE_FRAMES * config.rollout.group)
    return frames / (speed * device.flops / DEVICES["a100"].flops * len(gpus) * programs.hosts)


def sidecars_on(programs: Programs) -> RewardConfig:
    """Return the reward configuration with its sidecars on the devices of one host."""
    return programs.config.reward.placed(programs.mesh.size // programs.hosts)


def _seconds(device: Device, flops: float, moved: float) -> float | None:
    if math.isnan(device.flops):
        return None
    return max(flops / (device.flops * MATMUL_SHARE), moved / (device.bandwidth * BANDWIDTH_SHARE))

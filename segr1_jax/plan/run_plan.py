"""The plan of a run: needs on each device, whether they fit, and expected seconds of a step."""

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jax
from jax.sharding import AbstractMesh, Mesh

from segr1_jax.config.hardware import Device
from segr1_jax.config.schema import RunConfig
from segr1_jax.plan.buffers import Buffer, ledger, peaks
from segr1_jax.plan.compiled import Compiled, compile_program, options_of, rooflines
from segr1_jax.plan.estimate import MARGIN, Estimate
from segr1_jax.plan.fit import find_fit
from segr1_jax.plan.gathers import gather_faults
from segr1_jax.plan.phases import (
    Phase,
    Tokens,
    compiled_phases,
    host_copies,
    phases,
    sam2_phase,
    sidecars_on,
    tokens_per_step,
)
from segr1_jax.plan.programs import Programs
from segr1_jax.plan.roofline import Roofline
from segr1_jax.plan.update_programs import pinned_pool
from segr1_jax.policy.qwen2_5_vl.arch import PolicyArch
from segr1_jax.reward.config import CONTEXTS_SHARE
from segr1_jax.runtime.disk import SavingNeeds, saving_needs
from segr1_jax.runtime.mesh import AXES, AXIS_TYPES, make_mesh, mesh_shape

# Fragmentation, and what the runtime takes beside what the compiler counts.
COMPILED_MARGIN = 1.1


class Verdict(enum.StrEnum):
    """Verdict on whether a run fits the memory of its devices."""

    FITS = "fits"
    TIGHT = "tight"
    TOO_LARGE = "does not fit"


@dataclass(frozen=True)
class Plan:
    """Plan of a run. All sizes are bytes on one device.

    Attributes:
        device: its name in DEVICES.
        mesh: sizes of data, fsdp, tensor.
        budget: bytes that JAX may use.
        reserved: bytes kept for others (the sidecar, CUDA contexts).
        buffers: every buffer.
        peak: sum of the live buffers, by moment.
        margin: largest ratio of the actual size of the temporaries to the estimate.
        checkpoint: memory, disk and time of saving.
        tokens: of one step over all devices.
        phases: of one step on one device.
        pinned: bytes of moments in the pinned memory of the host.
        pinned_pool: bytes of pinned memory that XLA takes for a device at most.
        remedy: keys (key=value) that make a run fit; None if it fits or none were found.
        compiled: the compiler's own figures, where programs were compiled.
        rooflines: cost of one call by program, where programs were compiled for GPUs.
        faults: weights gathered in the wrong place, where programs were compiled.
    """

    device: str
    mesh: tuple[int, ...]
    budget: float
    reserved: dict[str, float]
    buffers: list[Buffer]
    peak: dict[str, float]
    margin: float
    checkpoint: SavingNeeds
    tokens: Tokens
    phases: list[Phase]
    pinned: float = 0.0
    pinned_pool: float = math.inf
    remedy: list[str] | None = None
    compiled: list[Compiled] = field(default_factory=list)
    rooflines: dict[str, Roofline] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def highest(self) -> str:
        """Moment of the largest sum."""
        return max(self.peak, key=self.peak.get)

    @property
    def high(self) -> float:
        """Largest sum, with the margin on temporaries."""
        return max(peaks(self.buffers, self.margin).values())

    @property
    def verdict(self) -> Verdict:
        """FITS with the margin, TIGHT only without it."""
        if self.peak[self.highest] > self.budget or self.pinned > self.pinned_pool:
            return Verdict.TOO_LARGE
        return Verdict.FITS if self.high <= self.budget else Verdict.TIGHT


def make_plan(
    config: RunConfig,
    arch: PolicyArch,
    device: Device,
    devices: int,
    *,
    hosts: int = 1,
    answer_tokens: int = 0,
    remedy: bool = True,
) -> Plan:
    """Plan by tracing alone.

    With `remedy`, a run that may not fit is planned again with other keys until it does. Memory is
    that of completions at the token limit. Times are of completions of `answer_tokens` (0: at the
    limit), except for the rollout, which lasts up to the limit.

    Raises:
        UserError: the devices cannot share this mesh or batch.
    """
    mesh = AbstractMesh(mesh_shape(config.mesh, devices), AXES, axis_types=AXIS_TYPES)
    plan = _plan(Programs(config, arch, mesh, hosts), device, answer_tokens)
    if plan.verdict is Verdict.FITS or not remedy:
        return plan

    def fits(other: RunConfig) -> bool:
        planned = make_plan(other, arch, device, devices, hosts=hosts, remedy=False)
        return planned.verdict is Verdict.FITS

    return dataclasses.replace(plan, remedy=find_fit(config, arch, devices, fits))


def compile_plan(
    config: RunConfig,
    arch: PolicyArch,
    device: Device,
    devices: Sequence[jax.Device],
    *,
    answer_tokens: int = 0,
) -> Plan:
    """Plan by compiling every program for `devices`; `answer_tokens` is that of make_plan.

    Temporaries are the compiler's; buffers are those of make_plan. Times are rooflines of the
    compiled programs on GPUs, those of make_plan on other devices.
    """
    mesh: Mesh = make_mesh(config.mesh, devices)
    hosts = len({each.process_index for each in devices})
    programs = Programs(config, arch, mesh, hosts)
    programs.check()
    options = options_of(programs)
    compiled = [compile_program(program, options) for program in programs.all()]
    plan = _plan(programs, device, answer_tokens, compiled)
    faults = [fault for each in compiled for fault in gather_faults(programs, each.name, each.text)]
    return dataclasses.replace(plan, faults=faults)


def _plan(
    programs: Programs, device: Device, answer_tokens: int, compiled: Sequence[Compiled] = ()
) -> Plan:
    programs.check()
    config = programs.config
    timed = dataclasses.replace(programs, answer_tokens=answer_tokens)
    bounds = rooflines(programs, device, compiled)
    if bounds and timed.capacity != programs.capacity:
        options = options_of(timed)
        again = [compile_program(program, options) for program in timed.of_completions()]
        bounds |= rooflines(timed, device, again)
    longest = Estimate(programs)
    # Tracing takes most of the time of a plan without a compiler.
    given = longest if timed.capacity == programs.capacity else Estimate(timed)
    temporaries = {each.name: each.temporaries for each in compiled} or longest.temporaries()
    buffers = ledger(programs, temporaries)
    pinned = programs.pinned_moments
    share = sidecars_on(programs).share_of_jax if device.jax_share < 1 else None
    reserved = (
        {}
        if share is None
        else {
            "SAM2": (1 - CONTEXTS_SHARE - share) * device.memory,
            "contexts": CONTEXTS_SHARE * device.memory,
        }
    )
    return Plan(
        device=device.name,
        mesh=tuple(programs.mesh.shape[axis] for axis in AXES),
        budget=device.memory * (share or device.jax_share),
        reserved=reserved,
        buffers=buffers,
        peak=peaks(buffers),
        margin=COMPILED_MARGIN if compiled else MARGIN,
        checkpoint=saving_needs(config, programs.state, programs.hosts),
        tokens=tokens_per_step(timed),
        phases=[
            *_phases(given, device, bounds),
            *host_copies(programs, device),
            *sam2_phase(programs, device),
        ],
        pinned=pinned.pinned if pinned else 0.0,
        pinned_pool=pinned_pool(device) if pinned else math.inf,
        compiled=list(compiled),
        rooflines=bounds,
    )


def _phases(estimate: Estimate, device: Device, bounds: Mapping[str, Roofline]) -> list[Phase]:
    programs = estimate.programs
    if bounds:
        pinned = programs.pinned_moments
        largest_weights = pinned.calls_of_largest if pinned else 0.0
        return compiled_phases(programs.config, bounds, largest_weights)
    tokens = programs.config.rollout.max_tokens
    return phases(programs, device, estimate.flops(tokens))

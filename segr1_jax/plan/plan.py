"""The plan of a run: what it needs on each device, whether it fits there, and how long a step should take."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
from jax.sharding import AbstractMesh, Mesh

from segr1_jax.hardware import Device
from segr1_jax.plan.buffers import Buffer, ledger, peaks
from segr1_jax.plan.compiled import Compiled, compile_program
from segr1_jax.plan.estimate import Estimate
from segr1_jax.plan.fit import find_fit
from segr1_jax.plan.gathers import gather_faults
from segr1_jax.plan.phases import Phase, Tokens, phases, sidecars_on, tokens_per_step
from segr1_jax.plan.programs import Programs
from segr1_jax.policy.arch import PolicyArch
from segr1_jax.reward.config import CONTEXTS_SHARE
from segr1_jax.train.config import RunConfig
from segr1_jax.train.mesh import AXES, AXIS_TYPES, make_mesh, mesh_shape


@dataclass(frozen=True)
class Plan:
    """Bytes are those of one device.

    Attributes:
        device, mesh: its name in DEVICES, and the sizes of data, fsdp, tensor.
        budget: what JAX may use; reserved: what is kept for others (the sidecar, CUDA contexts).
        buffers, peak: every buffer, and moment -> sum of those there.
        tokens, phases: of one step; phases on one device.
        remedy: where it does not fit, the knobs that would make it, as key=value; None where none was found (or it fits).
        compiled, faults: the compiler's own figures, and weights gathered in the wrong place, where programs were compiled.
    """

    device: str
    mesh: tuple[int, ...]
    budget: float
    reserved: dict[str, float]
    buffers: list[Buffer]
    peak: dict[str, float]
    tokens: Tokens
    phases: list[Phase]
    remedy: list[str] | None = None
    compiled: list[Compiled] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def highest(self) -> str:
        """The moment of the largest sum."""
        return max(self.peak, key=self.peak.get)

    @property
    def fits(self) -> bool:
        return self.peak[self.highest] <= self.budget


def make_plan(
    config: RunConfig,
    arch: PolicyArch,
    device: Device,
    devices: int,
    *,
    hosts: int = 1,
    remedy: bool = True,
) -> Plan:
    """Plan by tracing alone. With `remedy`, a run that does not fit is planned again with other knobs until it does.

    Raises:
        UserError: a mesh or batch that the devices cannot share.
    """
    mesh = AbstractMesh(mesh_shape(config.mesh, devices), AXES, axis_types=AXIS_TYPES)
    plan = _plan(Programs(config, arch, mesh, hosts), device)
    if plan.fits or not remedy:
        return plan
    change = find_fit(
        config,
        arch,
        devices,
        lambda other: make_plan(other, arch, device, devices, hosts=hosts, remedy=False).fits,
    )
    return dataclasses.replace(plan, remedy=change)


def compile_plan(
    config: RunConfig, arch: PolicyArch, device: Device, devices: Sequence[jax.Device]
) -> Plan:
    """Plan by compiling every program for `devices`: temporaries are the compiler's, buffers and times as in make_plan."""
    mesh: Mesh = make_mesh(config.mesh, devices)
    hosts = len({each.process_index for each in devices})
    programs = Programs(config, arch, mesh, hosts)
    programs.check()
    compiled = [compile_program(program) for program in programs.all()]
    plan = _plan(programs, device, compiled)
    faults = [fault for each in compiled for fault in gather_faults(programs, each.name, each.text)]
    return dataclasses.replace(plan, faults=faults)


def _plan(programs: Programs, device: Device, compiled: Sequence[Compiled] = ()) -> Plan:
    programs.check()
    estimate, config = Estimate(programs), programs.config
    temporaries = {each.name: each.temporaries for each in compiled} or estimate.temporaries()
    buffers = ledger(programs, temporaries)
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
        tokens=tokens_per_step(programs),
        phases=phases(
            programs, device, estimate.flops(0), estimate.flops(config.rollout.max_tokens)
        ),
        compiled=list(compiled),
    )

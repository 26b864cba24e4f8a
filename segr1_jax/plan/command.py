"""`segr1 plan`, and the check of `segr1 train` and `segr1 sft` before they load weights."""

import math
import sys
from pathlib import Path

import jax

from segr1_jax.common.hub_ids import hub_id
from segr1_jax.config.hardware import Device, device_named
from segr1_jax.config.recipes import ARCHITECTURES
from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError
from segr1_jax.hf.hub import local_architecture
from segr1_jax.hf.load_weights import read_arch, read_arch_file
from segr1_jax.plan.buffers import peaks
from segr1_jax.plan.plan_table import verdict
from segr1_jax.plan.run_plan import Plan, compile_plan, make_plan
from segr1_jax.plan.topology import topology_devices
from segr1_jax.policy.qwen2_5_vl.arch import PolicyArch
from segr1_jax.runtime.initial_weights import recorded_start, resolve_start
from segr1_jax.runtime.processes import is_first


def plan_command(
    config: RunConfig, *, compile_: bool, topology: str, answer_tokens: int = 0
) -> Plan:
    """Plan `config` for its `hardware` or a topology, without an accelerator of this machine.

    `answer_tokens` is that of make_plan.

    Raises:
        UserError: unknown architecture, hardware or topology, a mesh or batch that does not suit
            the devices, or `answer_tokens` above rollout.max_tokens.
    """
    if not 0 <= answer_tokens <= config.rollout.max_tokens:
        raise UserError(
            "--answer-tokens",
            expected=f"0 to rollout.max_tokens = {config.rollout.max_tokens}",
            got=str(answer_tokens),
            remedy="give a length in this range",
        )
    jax.config.update("jax_platforms", "cpu")
    arch, hardware = arch_of(config), config.hardware
    mean = {"answer_tokens": answer_tokens}
    if topology:
        device = device_named(topology.partition(":")[0])
        return compile_plan(config, arch, device, topology_devices(topology), **mean)
    device = device_named(hardware.kind)
    if compile_:
        jax.config.update("jax_num_cpu_devices", hardware.devices)
        return compile_plan(config, arch, device, jax.devices(), **mean)
    return make_plan(config, arch, device, hardware.devices, hosts=hardware.hosts, **mean)


def arch_of(config: RunConfig) -> PolicyArch:
    """Return the architecture in policy.path, which needs no weights, or the one of policy.arch.

    Of a repository on the Hub, config.json alone is downloaded. Where that fails, policy.arch is
    used, and the error is printed.
    """
    if Path(config.policy.path or "missing").is_dir():
        return read_arch(Path(resolve_start(config.policy.path).base))
    if hub_id(config.policy.path):
        try:
            return read_arch(local_architecture(config.policy.path))
        except UserError as error:
            if not config.policy.arch:
                raise
            print(f"planned for policy.arch={config.policy.arch}: {error}", file=sys.stderr)
    known = {file.stem: file for file in sorted(ARCHITECTURES.glob("*.json"))}
    named = config.policy.arch
    if named in known or Path(named or "missing").is_file():
        return read_arch_file(known.get(named, Path(named)))
    raise UserError(
        "policy.arch",
        expected=f"{' or '.join(known) or 'a config.json'}, or policy.path to be a directory",
        got=f"{named!r}, and policy.path={config.policy.path!r} is not there",
        remedy="name an architecture or the config.json of one",
    )


def plan_before_training(config: RunConfig) -> None:
    """Print one line on whether the run fits the devices, unless their memory is unknown (a CPU).

    Raises:
        UserError: what is counted, not estimated, is more than a device has.
    """
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is None:
        return
    at_hand = Device(device.device_kind, limit, math.nan, math.nan, jax_share=1.0)
    arch = read_arch(Path(recorded_start(config).base))
    plan = make_plan(config, arch, at_hand, jax.device_count(), hosts=jax.process_count())
    if is_first():
        print(f"plan: {verdict(plan)}", file=sys.stderr)
    counted = max(peaks([buffer for buffer in plan.buffers if not buffer.temporary]).values())
    if counted > limit:
        remedy = f"set {' '.join(plan.remedy)}" if plan.remedy else "use more or larger devices"
        got = f"{counted / 1e9:.1f} GB for weights, optimizer and gradients alone"
        raise UserError(
            "memory",
            expected=f"at most {limit / 1e9:.1f} GB per {device.device_kind}",
            got=got,
            remedy=remedy,
        )

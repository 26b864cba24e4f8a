"""Run two GRPO steps through `segr1 train`, and compare their memory with the plan."""

import json
import math
from pathlib import Path

import jax
from checkpoint_memory import AnonymousMemory
from first_day_parts.digests import digests, digests_file
from first_day_parts.request import NOT_COMPARED, Request, Row, verdict

from segr1_jax import cli
from segr1_jax.common.files import write_atomically
from segr1_jax.config.hardware import Device
from segr1_jax.config.loading import load_config
from segr1_jax.config.schema import RunConfig
from segr1_jax.hf.load_weights import read_arch
from segr1_jax.plan.run_plan import Plan, make_plan
from segr1_jax.runtime.checkpoint import Checkpoints
from segr1_jax.runtime.initial_weights import recorded_start
from segr1_jax.runtime.metrics_log import read_metrics
from segr1_jax.runtime.run_directory import RunDir
from segr1_jax.training import run as runs

# Metrics that must be finite; without a reference there is no KL.
FINITE = {"loss", "kl"}
STEPS = 2


def overrides(request: Request) -> list[str]:
    """Return overrides for the two steps: one save, one short evaluation, a new run directory."""
    run = request.run
    return [
        *request.overrides,
        f"run_dir={run}",
        f"checkpoint_dir={run}/checkpoints",
        f"steps={STEPS}",
        f"save_every={STEPS}",
        "keep_best=0",
        "log_every=1",
        "eval_every=0",
        "eval_first=false",
        f"eval_limit={request.config.eval_batch}",
        "optimizer.warmup_steps=0",
        "profile.steps=[]",
    ]


def measure(request: Request) -> list[Row]:
    """Return a row for the steps and a row for the memory."""
    words = overrides(request)
    runs.Checkpoints = _recording(request.run)
    with AnonymousMemory() as host:
        if status := cli.main(["train", str(request.file), *words]):
            raise SystemExit(status)
    return [_steps(request.run), _memory(load_config(request.file, words), host.peak)]


def _recording(run: Path) -> type[Checkpoints]:
    """Return a class of Checkpoints that writes digests of every saved state."""

    class Recording(Checkpoints):
        def save(self, state, position, *rest):
            write_atomically(digests_file(run), json.dumps(digests(state, position)))
            super().save(state, position, *rest)

    return Recording


def _steps(run: Path) -> Row:
    lines = [line for line in read_metrics(RunDir(run)) if "loss" in line]
    good = len(lines) == STEPS and not any(line["skipped_update"] for line in lines)
    good = good and all(
        math.isfinite(line[name]) for line in lines for name in FINITE & line.keys()
    )
    measured = "; ".join(
        f"reward {line['reward']:.3f}, loss {line['loss']:.2e}, gradient {line['grad_norm']:.2e}, "
        f"sampler gap {line['sampler_gap']:.1e}"
        for line in lines
    )
    return Row(f"{STEPS} steps of `segr1 train`", "finite, none skipped", measured, verdict(good))


def _memory(config: RunConfig, host_peak: int) -> Row:
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    limit = stats.get("bytes_limit", math.inf)
    plan = _plan(config, Device(device.device_kind, limit, math.nan, math.nan, jax_share=1.0))
    planned = plan.peak[plan.highest]
    peak = stats.get("peak_bytes_in_use")
    return compare(planned, plan.high, plan.highest, peak, host_peak)


def compare(planned: float, high: float, moment: str, peak: int | None, host_peak: int) -> Row:
    """Compare the peak memory of a device, in bytes, with the plan's figure and its margin.

    `peak` is None on a CPU, which does not report it; the memory of its process has more than
    arrays.
    """
    expected = f"{planned / 1e9:.2f} GB planned ({moment}), at most {high / 1e9:.2f} with margin"
    if peak is None:
        measured = f"{host_peak / 1e9:.2f} GB of host memory"
        result = NOT_COMPARED
    else:
        measured = f"{peak / 1e9:.2f} GB ({peak / planned:.2f} times)"
        result = verdict(peak <= high)
    return Row("memory of the steps", expected, measured, result)


def _plan(config: RunConfig, device: Device) -> Plan:
    arch = read_arch(Path(recorded_start(config).base))
    return make_plan(config, arch, device, jax.device_count(), remedy=False)

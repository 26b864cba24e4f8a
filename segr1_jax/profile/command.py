"""`segr1 profile`: trace and time a short run of a configuration."""

import contextlib
import dataclasses
import itertools
from pathlib import Path

import jax

from segr1_jax.config.schema import ProfileConfig, RunConfig
from segr1_jax.errors import UserError
from segr1_jax.hf.load_weights import read_arch
from segr1_jax.profile.costs import function_costs
from segr1_jax.profile.peak import peak_at_hand
from segr1_jax.profile.profile_table import Profile
from segr1_jax.profile.recorder import ProfileEnded, Recorder
from segr1_jax.profile.split import split_rollout
from segr1_jax.profile.trace import host_events, trace_file
from segr1_jax.runtime.compiled_functions import observed_by
from segr1_jax.runtime.initial_weights import recorded_start
from segr1_jax.runtime.metrics_log import read_metrics
from segr1_jax.runtime.run_directory import RunDir
from segr1_jax.runtime.step_trace import STEP_EVENT, TRACE_PHASE
from segr1_jax.training.loop import run_grpo, run_sft

WARM_UP = 2  # steps: the first compiles, the second fills the pipeline


def profile_command(
    config: RunConfig, steps: int, peak_flops: float | None = None, hlo: Path | None = None
) -> Profile:
    """Run the warm-up, `steps` traced steps, then `steps` steps of which every call is timed.

    `peak_flops` is that of one device.

    Raises:
        UserError: as training does, and where several processes work together.
    """
    if jax.process_count() > 1:
        remedy = "set profile.steps in the run itself: every process writes its trace"
        raise UserError(
            "segr1 profile", expected="one process", got=str(jax.process_count()), remedy=remedy
        )
    traced = range(WARM_UP + 1, WARM_UP + 1 + steps)
    short = shortened(config, traced)
    timed_steps = range(traced.stop, traced.stop + steps)
    with (
        Recorder(timed_steps) as recorder,
        observed_by(recorder),
        contextlib.suppress(ProfileEnded),
    ):
        {"sft": run_sft, "grpo": run_grpo}[config.stage](short)
    directory = RunDir(Path(short.run_dir))
    peak, peak_source = peak_at_hand(peak_flops)
    arch, adapters = read_arch(Path(recorded_start(short).base)), bool(short.policy.lora.rank)
    file = trace_file(directory.profile)
    events = host_events(file)
    return Profile(
        directory=str(directory.path),
        trace=str(file),
        device=f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        peak=peak,
        peak_source=peak_source,
        steps=steps,
        step_seconds=events[STEP_EVENT] / steps,
        phases=_phases(directory, traced),
        traced_names=sorted(events),
        split=split_rollout(recorder, steps) if short.stage == "grpo" else None,
        functions=function_costs(
            recorder, steps=steps, arch=arch, adapters=adapters, peak=peak, hlo=hlo
        ),
    )


def shortened(config: RunConfig, traced: range) -> RunConfig:
    """Return `config` with its own directory, one evaluation batch, and one step after `traced`."""
    steps = traced.stop + len(traced)
    free = (f"{config.run_dir}_profile_{number}" for number in itertools.count(1))
    return dataclasses.replace(
        config,
        run_dir=next(path for path in free if not Path(path).exists()),
        checkpoint_dir="",
        steps=steps,
        eval_every=0,
        save_every=steps,
        log_every=1,
        eval_limit=config.eval_batch,
        optimizer=dataclasses.replace(config.optimizer, warmup_steps=0),
        profile=ProfileConfig([traced.start, traced.stop - 1]),
    )


def _phases(directory: RunDir, traced: range) -> dict[str, float]:
    """Return mean seconds by phase of the traced steps, without the start of the profiler."""
    lines = [
        line for line in read_metrics(directory) if line["step"] in traced and "time/step_s" in line
    ]
    names = {name for line in lines for name in line if name.startswith("time/")} - {
        "time/step_s",
        f"time/{TRACE_PHASE}_s",
    }
    total = {name: sum(line.get(name, 0.0) for line in lines) / len(lines) for name in names}
    return {
        name.removeprefix("time/").removesuffix("_s"): total[name]
        for name in sorted(total, key=total.get, reverse=True)
    }

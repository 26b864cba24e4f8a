"""A profile as markdown and as JSON."""

import dataclasses
import json
from dataclasses import dataclass

from segr1_jax.plan.table import table
from segr1_jax.profile.costs import MFU, FunctionCost
from segr1_jax.profile.split import Split


@dataclass(frozen=True)
class Profile:
    """The result of `segr1 profile`.

    Attributes:
        peak: FLOP/s of all devices, where known.
        steps: number of traced steps; as many were timed call by call.
        step_seconds: duration of a traced step by the trace.
        phases: mean seconds by phase of the traced steps, by the run's own metrics.
        traced_names: names of the host's events in the trace.
    """

    directory: str
    trace: str
    device: str
    peak: float | None
    peak_source: str
    steps: int
    step_seconds: float
    phases: dict[str, float]
    traced_names: list[str]
    split: Split | None
    functions: list[FunctionCost]

    @property
    def accounted(self) -> float:
        """Sum of all phases (by the metrics' clock) over the step (by the trace's clock)."""
        return sum(self.phases.values()) / self.step_seconds


def markdown(profile: Profile) -> str:
    """Return phases, prefill and decode, functions, definitions and the path of the trace."""
    parts = [
        f"# Profile: {profile.device}, {profile.steps} traced steps, as many timed",
        _phases(profile),
        *([_split(profile, profile.split)] if profile.split else []),
        _speed(profile),
        _programs(profile),
        f"Peak: {profile.peak_source}. {MFU}.",
        "Seconds per call: from ready arguments to a ready result, measured in separate steps. A "
        "hit in the persistent compilation cache counts as a compilation. The compiler's FLOPs and "
        "bytes are for one device, with every loop body counted once.",
        "Compilations after warm-up: 0 (otherwise the run would have ended with their names).\n\n"
        f"Trace: {profile.trace}\n"
        "(`pip install xprof`, then `xprof --logdir` on the folder above plugins/, "
        "or TensorBoard's profile page)",
    ]
    return "\n\n".join(parts) + "\n"


def to_json(profile: Profile) -> str:
    """Return all figures as JSON."""
    record = dataclasses.asdict(profile) | {"accounted": profile.accounted, "mfu_definition": MFU}
    return json.dumps(record, indent=1) + "\n"


def _phases(profile: Profile) -> str:
    rows = [(name, *_share(profile, seconds)) for name, seconds in profile.phases.items()]
    ends = [
        ("sum of phases", *_share(profile, sum(profile.phases.values()))),
        ("step, by the trace", *_share(profile, profile.step_seconds)),
    ]
    return table(("phase of a step", "seconds", "share of the step"), [*rows, *ends])


def _split(profile: Profile, split: Split) -> str:
    rows = [
        (name, *_share(profile, seconds))
        for name, seconds in (("prefill", split.prefill), ("decode", split.decode))
    ]
    turns = f"{split.turns:g} decoding turns of {split.decode / split.turns * 1e3:.3f} ms."
    head = ("part of rollout, timed apart", "seconds", "share of the step")
    return f"{table(head, rows)}\n\n{turns}"


def _share(profile: Profile, seconds: float) -> tuple[str, str]:
    return f"{seconds:.4f}", f"{seconds / profile.step_seconds:.1%}"


def _speed(profile: Profile) -> str:
    rows = [
        (
            f.name,
            f"{f.calls_per_step:g}",
            _or(f.seconds, "{:.4f}"),
            _or(f.model_flops and f.model_flops / 1e9, "{:.3f}"),
            _or(f.flops and f.flops / 1e9, "{:.3f}"),
            _or(f.mfu, "{:.1%}"),
            _or(f.hfu, "{:.1%}"),
        )
        for f in profile.functions
    ]
    return table(
        ("function", "calls per step", "s per call", "model GFLOP", "GFLOP done", "MFU", "HFU"),
        rows,
    )


def _programs(profile: Profile) -> str:
    rows = [
        (
            f.name,
            str(f.compilations),
            f"{f.compile_seconds:.2f}",
            f"{f.xla_flops / 1e9:.3f}",
            *(
                f"{size / 1e6:.1f}"
                for size in (f.xla_bytes, f.argument_bytes, f.temporary_bytes, f.output_bytes)
            ),
        )
        for f in profile.functions
    ]
    return table(
        (
            "function",
            "compiled",
            "s",
            "XLA GFLOP",
            "MB accessed",
            "arguments MB",
            "temporaries MB",
            "results MB",
        ),
        rows,
    )


def _or(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)

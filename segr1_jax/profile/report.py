"""A profile as markdown and as JSON."""

import dataclasses
import json
from dataclasses import dataclass

from segr1_jax.plan.report import table
from segr1_jax.profile.costs import MFU, FunctionCost


@dataclass(frozen=True)
class Split:
    """Seconds of one `sample` call and of its prefill, timed apart; `turns` is the tokens of the longest completion."""

    prefill: float
    sample: float
    turns: float

    @property
    def decode(self) -> float:
        return self.sample - self.prefill


@dataclass(frozen=True)
class Profile:
    """What `segr1 profile` found. Seconds; `phases` are means over the traced steps, `step` is the whole."""

    directory: str
    trace: str
    device: str
    peak: float | None
    peak_source: str
    steps: int
    phases: dict[str, float]
    traced_names: list[str]
    split: Split | None
    functions: list[FunctionCost]

    @property
    def accounted(self) -> float:
        """Share of the step that the named phases and `other` make up."""
        return sum(seconds for name, seconds in self.phases.items() if name != "step") / self.phases["step"]


def markdown(profile: Profile) -> str:
    """Phases, prefill and decode, functions, definitions, where the trace lies."""
    parts = [
        f"# Profile: {profile.device}, {profile.steps} traced steps, as many timed",
        _phases(profile),
        *([_split(profile.split)] if profile.split else []),
        _speed(profile),
        _programs(profile),
        f"Peak: {profile.peak_source}. {MFU}.",
        "Seconds per call: from arguments that are there to a result that is there, in steps of their own. A compilation that the "
        "persistent cache had counts as one. The compiler's FLOPs and bytes are for one device and take the body of every loop once.",
        f"Compilations after warm-up: 0 (else the run would have ended with their names).\n\nTrace: {profile.trace}\n"
        "(`pip install xprof`, then `xprof --logdir` on the folder above plugins/, or TensorBoard's profile page)",
    ]
    return "\n\n".join(parts) + "\n"


def to_json(profile: Profile) -> str:
    """Every figure."""
    record = dataclasses.asdict(profile) | {"accounted": profile.accounted, "mfu_definition": MFU}
    return json.dumps(record, indent=1) + "\n"


def _phases(profile: Profile) -> str:
    step = profile.phases["step"]
    rows = [(name, f"{seconds:.4f}", f"{seconds / step:.1%}") for name, seconds in profile.phases.items() if name != "step"]
    return table(
        ("phase of a step", "seconds", "share"), [*rows, ("sum of phases", f"{profile.accounted * step:.4f}", f"{profile.accounted:.1%}")]
    )


def _split(split: Split) -> str:
    rows = [(name, f"{s:.4f}", f"{s / split.sample:.1%}") for name, s in (("prefill", split.prefill), ("decode", split.decode))]
    per_token = split.decode / split.turns
    return f"{table(('part of sample', 'seconds', 'share'), rows)}\n\n{split.turns:g} decoding turns, {per_token * 1e3:.3f} ms each."


def _speed(profile: Profile) -> str:
    rows = [
        (f.name, f"{f.calls_per_step:g}", _or(f.seconds, "{:.4f}"), f"{f.flops / 1e9:.3f}", _or(f.rate, "{:.3g}"), _or(f.mfu, "{:.1%}"))
        for f in profile.functions
    ]
    return table(("function", "calls per step", "s per call", "GFLOP", "FLOP/s", "MFU"), rows)


def _programs(profile: Profile) -> str:
    rows = [
        (
            f.name,
            str(f.compilations),
            f"{f.compile_seconds:.2f}",
            f"{f.xla_flops / 1e9:.3f}",
            *(f"{size / 1e6:.1f}" for size in (f.xla_bytes, f.argument_bytes, f.temporary_bytes, f.output_bytes)),
        )
        for f in profile.functions
    ]
    return table(("function", "compiled", "s", "XLA GFLOP", "MB accessed", "arguments MB", "temporaries MB", "results MB"), rows)


def _or(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)

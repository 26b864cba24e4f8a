"""A plan as markdown, as one line, and as JSON."""

import dataclasses
import json
import math

from segr1_jax.plan.buffers import peaks
from segr1_jax.plan.phases import BANDWIDTH_SHARE, MATMUL_SHARE
from segr1_jax.plan.roofline_table import LIMITS, roofline_tables
from segr1_jax.plan.run_plan import Plan, Verdict
from segr1_jax.plan.table import GB, gigabytes, table
from segr1_jax.runtime.disk import DISK_RATE


def verdict(plan: Plan) -> str:
    """Return the verdict in one line: fits, tight or does not fit."""
    mesh = " x ".join(str(size) for size in plan.mesh)
    line = (
        f"{plan.verdict} on {plan.device}, mesh {mesh}: {plan.peak[plan.highest] / GB:.1f} to "
        f"{plan.high / GB:.1f} GB at the peak ({plan.highest}) "
        f"of {plan.budget / GB:.1f} GB that JAX may use"
    )
    if plan.verdict is Verdict.FITS:
        return line
    remedy = (
        f"fits with {' '.join(plan.remedy)}"
        if plan.remedy
        else "no configuration change was found that makes it fit"
    )
    return f"{line}; {remedy}"


def markdown(plan: Plan) -> str:
    """Return verdict, buffers, moments, phases and figures of a compiler as markdown."""
    parts = [f"**{verdict(plan)}**", _buffers(plan), _moments(plan), _phases(plan), _saving(plan)]
    if plan.compiled:
        parts += [*(roofline_tables(plan) or [_compiled(plan)]), _faults(plan)]
    return "\n\n".join(parts)


def to_json(plan: Plan) -> str:
    """Return the figures of the plan (bytes, FLOPs, seconds per device), without compiled texts."""
    record = dataclasses.asdict(plan) | {
        "verdict": plan.verdict,
        "highest": plan.highest,
        "high": plan.high,
    }
    for each in record["compiled"]:
        del each["text"]
    return json.dumps(record, indent=1) + "\n"


def _buffers(plan: Plan) -> str:
    rows = [
        (
            f"{buffer.name}{' (estimate)' if buffer.temporary and not plan.compiled else ''}",
            gigabytes(buffer.bytes),
            _when(buffer.moments),
        )
        for buffer in plan.buffers
    ]
    kept = [(f"kept for {name}", gigabytes(size), "always") for name, size in plan.reserved.items()]
    return table(("buffer", "GB per device", "there during"), rows + kept)


def _moments(plan: Plan) -> str:
    high = peaks(plan.buffers, plan.margin)
    return table(
        ("moment", "GB per device", f"temporaries x {plan.margin:g}", "of budget"),
        [
            (moment, gigabytes(size), gigabytes(high[moment]), f"{high[moment] / plan.budget:.0%}")
            for moment, size in plan.peak.items()
        ],
    )


def _phases(plan: Plan) -> str:
    rows = [
        (p.name, f"{p.flops / 1e12:.2f}", "-" if p.seconds is None else f"{p.seconds:.2f}")
        for p in plan.phases
    ]
    known = sum(p.seconds or 0.0 for p in plan.phases)
    tokens = plan.tokens
    shares = (
        f"seconds at {MATMUL_SHARE:.0%} of the FLOP/s and {BANDWIDTH_SHARE:.0%} of the bandwidth "
        "of the data sheet, communication left out"
    )
    note = (
        f"{tokens.prompts:,} prompt tokens (at prompt.max_tokens), {tokens.completions:,} "
        f"completion tokens and {tokens.patches:,} patches a step; reference and update compute "
        f"{tokens.capacity:,} completion tokens of each prompt; "
        f"{LIMITS if plan.rooflines else shares}."
    )
    rows.append(("sum", "", f"{known:.2f}" if known else "-"))
    return f"{table(('phase', 'TFLOP per device', 'seconds'), rows)}\n\n{note}"


def _saving(plan: Plan) -> str:
    needs = plan.checkpoint
    return (
        f"A checkpoint takes {needs.checkpoint / GB:.1f} GB, all of them {needs.disk / GB:.1f} GB "
        f"of disk; while one is written, each host holds {needs.host_memory / GB:.1f} GB of it in "
        f"memory, for about {needs.seconds:.0f} s at {DISK_RATE / GB:g} GB/s a host."
        f"{_pinned(plan)}"
    )


def _pinned(plan: Plan) -> str:
    if not plan.pinned:
        return ""
    pool = plan.pinned_pool / GB
    limit = f", of the {pool:.1f} GB that XLA takes for them at most" if pool < math.inf else ""
    return (
        f" Beside that, the moments take up to {plan.pinned / GB:.1f} GB of pinned memory for each "
        f"device of a host{limit}."
    )


def _compiled(plan: Plan) -> str:
    rows = [
        (
            c.name,
            gigabytes(c.temporaries),
            gigabytes(c.results),
            f"{c.flops / 1e12:.3f}",
            f"{c.seconds:.0f}",
            c.fault or "ok",
        )
        for c in plan.compiled
    ]
    return table(
        (
            "compiled program",
            "temporaries GB",
            "new results GB",
            "TFLOP (a loop body once)",
            "compile s",
            "",
        ),
        rows,
    )


def _faults(plan: Plan) -> str:
    if not plan.faults:
        return (
            "Weights are gathered where they should be: none inside the decoding loop, one layer "
            "at a time in the update."
        )
    return "\n".join(f"- {fault}" for fault in plan.faults)


def _when(moments: tuple[str, ...]) -> str:
    return ", ".join(moments) or "-"

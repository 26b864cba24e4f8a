"""Costs of each jitted function: compiler figures, FLOPs with loops, seconds, share of the peak."""

from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from segr1_jax.common.files import write_atomically
from segr1_jax.plan.flops import matmul_flops
from segr1_jax.policy.qwen2_5_vl.arch import PolicyArch
from segr1_jax.profile.model_flops import call_flops
from segr1_jax.profile.recorder import Recorder, Seen
from segr1_jax.runtime.compiled_functions import Watched

MFU = (
    "MFU = model FLOPs of a call / (its seconds x devices x peak dense bfloat16 FLOP/s of one "
    "device). Model FLOPs: 2 per multiply-add of the matrix products that the formulas need for "
    "real tokens, attention to visible ones included; padding, masked scores and recomputation are "
    "left out; a gradient counts 3 forward passes (2 with adapters alone). HFU: the same with the "
    "FLOPs of the matrix products in the traced program, with every loop turn, padding and "
    "recomputation by remat"
)


@dataclass(frozen=True)
class FunctionCost:
    """Costs of one jitted function. Bytes are per device.

    Attributes:
        flops: FLOPs of the matrix products that the program performs in one call, with loops
            counted, over all devices; None if the profiled steps made no call.
        model_flops: FLOPs that the formulas require for one call (model_flops.py), over all
            devices; None if there was no call or the function has no such products.
        xla_flops, xla_bytes: the compiler's count for one device, every loop body counted once.
        seconds: mean over the timed calls, each waited for; None if there was no call.
        mfu, hfu: see MFU; None if the peak is unknown.
    """

    name: str
    compilations: int
    compile_seconds: float
    calls_per_step: float
    seconds: float | None
    flops: float | None
    model_flops: float | None
    xla_flops: float
    xla_bytes: float
    argument_bytes: int
    temporary_bytes: int
    output_bytes: int
    mfu: float | None
    hfu: float | None


def function_costs(
    recorder: Recorder,
    *,
    steps: int,
    arch: PolicyArch,
    adapters: bool,
    peak: float | None,
    hlo: Path | None,
) -> list[FunctionCost]:
    """Return the costs of every called function, most expensive first.

    `hlo` is a folder for compiled texts. Each function is compiled once more. `adapters`: only
    adapters are trained. `peak` is the FLOP/s of all devices.
    """
    if hlo:
        hlo.mkdir(parents=True, exist_ok=True)
    costs = [_cost(seen, steps, arch, adapters, peak, hlo) for seen in recorder.seen.values()]
    return sorted(costs, key=lambda cost: -(cost.seconds or 0) * cost.calls_per_step)


def _cost(
    seen: Seen, steps: int, arch: PolicyArch, adapters: bool, peak: float | None, hlo: Path | None
) -> FunctionCost:
    # Memory and text are those of the program of the first timed call.
    arguments = next(iter(seen.programs.values()), seen.arguments)
    compiled = seen.function.lower(*arguments).compile()
    if hlo:
        write_atomically(hlo / f"{seen.function.name}.txt", compiled.as_text())
    turns = round(mean(seen.turns)) if seen.turns else 1
    seconds = mean(seen.seconds) if seen.seconds else None
    flops_of = {
        static: _flops(seen.function, arguments, turns, arch)
        for static, arguments in seen.programs.items()
    }
    flops = mean(flops_of[static] for static in seen.statics) if seen.statics else None
    needed = (
        mean(call_flops(seen.function.name, arch, work, adapters=adapters) for work in seen.work)
        if seen.work
        else None
    )
    xla, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    return FunctionCost(
        seen.function.name,
        compilations=len(seen.compile_seconds),
        compile_seconds=sum(seen.compile_seconds),
        calls_per_step=len(seen.seconds) / steps,
        seconds=seconds,
        flops=flops,
        model_flops=needed,
        xla_flops=xla.get("flops", 0.0),
        xla_bytes=xla.get("bytes accessed", 0.0),
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        mfu=needed / seconds / peak if peak and seconds and needed else None,
        hfu=flops / seconds / peak if peak and seconds and flops else None,
    )


def _flops(function: Watched, arguments: tuple, turns: int, arch: PolicyArch) -> float:
    """Return the FLOPs of one program; `turns` are the iterations of its decoding loop."""
    jaxpr = function.trace(*arguments).jaxpr.jaxpr
    # Share of the tower's layers that attend to the whole image.
    return matmul_flops(jaxpr, trips=turns, true_share=arch.vision.full_share)

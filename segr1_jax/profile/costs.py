"""What each jitted function costs: the compiler's figures, FLOPs with loops counted, seconds, and the share of the peak."""

from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from segr1_jax.files import write_atomically
from segr1_jax.plan.flops import matmul_flops
from segr1_jax.profile.recorder import Recorder, Seen

MFU = (
    "MFU = FLOPs of the matrix products of one call (counted in the traced program: every loop turn, and what remat computes again, over "
    "all devices) / (seconds of the call x devices x peak dense bfloat16 FLOP/s of one device)"
)


@dataclass(frozen=True)
class FunctionCost:
    """One jitted function. Bytes are per device.

    Attributes:
        flops: of the matrix products of one call, loops counted, over all devices; None where the profiled steps made no call.
        xla_flops, xla_bytes: the compiler's count for one device, which takes the body of every loop once.
        seconds: mean of the timed calls, waited for; None likewise.
        mfu: see MFU; None without a known peak.
    """

    name: str
    compilations: int
    compile_seconds: float
    calls_per_step: float
    seconds: float | None
    flops: float | None
    xla_flops: float
    xla_bytes: float
    argument_bytes: int
    temporary_bytes: int
    output_bytes: int
    mfu: float | None

    @property
    def rate(self) -> float | None:
        """Matrix FLOP/s over all devices."""
        return self.flops / self.seconds if self.seconds else None


def function_costs(recorder: Recorder, *, steps: int, full_share: float, peak: float | None, hlo: Path | None) -> list[FunctionCost]:
    """The costs of every function that was called, dearest first. Compiles each once more; `hlo` is where their texts go.

    `full_share` is the share of the tower's layers that attend to the whole image, `peak` the FLOP/s of all devices.
    """
    if hlo:
        hlo.mkdir(parents=True, exist_ok=True)
    costs = [_cost(seen, steps, full_share, peak, hlo) for seen in recorder.seen.values()]
    return sorted(costs, key=lambda cost: -(cost.seconds or 0) * cost.calls_per_step)


def _cost(seen: Seen, steps: int, full_share: float, peak: float | None, hlo: Path | None) -> FunctionCost:
    traced = seen.function.trace(*seen.arguments)
    compiled = traced.lower().compile()
    if hlo:
        write_atomically(hlo / f"{seen.function.name}.txt", compiled.as_text())
    turns = round(mean(seen.turns)) if seen.turns else 1
    seconds = mean(seen.seconds) if seen.seconds else None
    flops = matmul_flops(traced.jaxpr.jaxpr, trips=turns, true_share=full_share) if seen.seconds else None
    xla, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    return FunctionCost(
        seen.function.name,
        compilations=len(seen.compile_seconds),
        compile_seconds=sum(seen.compile_seconds),
        calls_per_step=len(seen.seconds) / steps,
        seconds=seconds,
        flops=flops,
        xla_flops=xla.get("flops", 0.0),
        xla_bytes=xla.get("bytes accessed", 0.0),
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        mfu=flops / seconds / peak if peak and seconds and flops else None,
    )

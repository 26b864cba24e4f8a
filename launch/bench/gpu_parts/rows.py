"""Rows of the part `programs`: what a program took, beside what the plan says of it."""

import jax
from gpu_parts.request import Request, on_gpu

from segr1_jax.plan.buffers import MOMENTS, ledger, moment_of, peaks
from segr1_jax.plan.compiled import Compiled, roofline_of
from segr1_jax.plan.programs import Programs
from segr1_jax.profile.model_flops import call_flops, work_of
from segr1_jax.profile.peak import peak_of


class Rows:
    """Rows of programs of one run.

    Their figures:
      seconds, predicted_s, ratio    of a call: the median, the roofline, and their quotient
      mfu                            model FLOP/s over the peak of the data sheet
      of_ceiling                     model FLOP/s over the measured rate of bfloat16 products
      temporaries_bytes              of the program, by the compiler
      in_use_bytes                   on the device after the calls
      peak_bytes                     the most on the device since the start of the process
      planned_peak_bytes             the most of the ledger up to the moment of the program
    """

    def __init__(self, request: Request, programs: Programs):
        self.programs, self.at = programs, request.ceilings()
        self.temporaries: dict[str, float] = {}

    def of(
        self, compiled: Compiled, seconds: float, arguments: tuple, result, trips: int = 1
    ) -> dict:
        """Return the figures of a call with these arguments and this result."""
        self.temporaries.setdefault(compiled.name, compiled.temporaries)
        predicted = self.predicted(compiled, trips)
        return {
            "seconds": seconds,
            "predicted_s": predicted,
            "ratio": predicted and seconds / predicted,
            **self._utilization(compiled.name, seconds, arguments, result),
            "compile_s": round(compiled.seconds, 2),
            "temporaries_bytes": compiled.temporaries,
            **memory(),
            "planned_peak_bytes": self._planned(compiled.name),
        }

    def predicted(self, compiled: Compiled, trips: int) -> float | None:
        """Return the seconds of the plan at the measured ceilings; None where it has none.

        Programs compiled for a CPU have no kernels.
        """
        if self.at is None or not on_gpu():
            return None
        return roofline_of(self.programs, compiled, self.at, trips).total.seconds

    def _utilization(self, name: str, seconds: float, arguments: tuple, result) -> dict:
        work = work_of(name, arguments, result)
        if work is None:
            return {"model_flops": None, "mfu": None, "of_ceiling": None}
        adapters = self.programs.config.policy.lora.rank > 0
        flops = call_flops(name, self.programs.arch, work, adapters=adapters)
        peak = peak_of(jax.devices()[0].device_kind)
        rate = flops / seconds
        return {
            "model_flops": flops,
            "mfu": peak and rate / peak,
            "of_ceiling": self.at and rate / self.at.half,
        }

    def _planned(self, name: str) -> float:
        by_moment = peaks(ledger(self.programs, self.temporaries))
        # Without the start of a run, at which the initial weights are alive too.
        until = MOMENTS[1 : MOMENTS.index(moment_of(name)) + 1]
        return max(by_moment[moment] for moment in until)


def memory() -> dict[str, int | None]:
    """Return bytes in use and the most so far on the first device; None where JAX has no counts."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "in_use_bytes": stats.get("bytes_in_use"),
        "peak_bytes": stats.get("peak_bytes_in_use"),
    }

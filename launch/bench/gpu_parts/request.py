"""Shared code of the parts: the request, timing, and rows that may fail alone."""

import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from first_day_parts.request import prepare_jax
from gpu_parts.record import Record

from segr1_jax.config.schema import RunConfig
from segr1_jax.plan.roofline import Ceilings

Add = Callable[[dict[str, Any]], None]
CALLS, TOY_CALLS = 5, 2
MAX_ERROR = 300
# Of the row `ceilings`, in the order of the fields of Ceilings.
RATES = ("bytes_per_s", "bfloat16_flops_per_s", "float32_flops_per_s")


@dataclass(frozen=True)
class Request:
    """What is measured.

    Attributes:
        toy: take sizes for a CPU.
        answer_tokens: length of the shorter answers in tokens.
        record: the results of this part and of those before it.
    """

    config: RunConfig
    toy: bool
    answer_tokens: int
    record: Record

    @property
    def calls(self) -> int:
        """Timed calls of each function."""
        return TOY_CALLS if self.toy else CALLS

    def prepare_jax(self) -> None:
        """Prepare JAX for the configuration; call it before any other use of JAX."""
        prepare_jax(self.config)

    def ceilings(self) -> Ceilings | None:
        """Return the rates that the part `ceilings` has measured, None without it.

        Wires to other devices have no limit: there is one device.
        """
        row = self.record.row("ceilings", "ceilings")
        if row is None or not row.keys() >= {*RATES}:
            return None
        return Ceilings(*(row[name] for name in RATES), nvlink=float("inf"))


def seconds_of(call: Callable[[], Any], calls: int, repeats: int = 1) -> list[float]:
    """Return the seconds of each of `calls` calls, after one that is not counted.

    Each is the mean of `repeats` calls that are dispatched together.
    """
    jax.block_until_ready(call())
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        for _ in range(repeats):
            result = call()
        jax.block_until_ready(result)
        seconds.append((time.perf_counter() - began) / repeats)
        # A donated buffer must not be kept here.
        del result
    return seconds


def median_of(call: Callable[[], Any], calls: int) -> float:
    """Return the median seconds of a call."""
    return statistics.median(seconds_of(call, calls))


def attempt(add: Add, name: str, measure: Callable[[], dict[str, Any]]) -> None:
    """Add a row of what `measure` returns, or of its error: the rows after it do not need it."""
    try:
        row = measure()
    except Exception as error:  # noqa: BLE001 (it is the result of the row)
        traceback.print_exc(file=sys.stdout)
        message = " ".join(f"{type(error).__name__}: {error}".split())
        row = {"error": message[:MAX_ERROR]}
    add({"name": name} | row)


def random_keys(count: int) -> jax.Array:
    """Return keys of the generator that compiles fastest and is fast on GPUs."""
    return jax.random.split(jax.random.key(0, impl="rbg"), count)


def on_gpu() -> bool:
    """Return whether JAX computes on an NVIDIA GPU."""
    return jax.default_backend() == "gpu"

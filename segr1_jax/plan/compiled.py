"""Compile the programs for real devices, fake ones or a topology: memory, FLOPs and text."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from jax.errors import JaxRuntimeError

from segr1_jax.config.hardware import Device
from segr1_jax.errors import UserError
from segr1_jax.plan.kernels import kernels
from segr1_jax.plan.program import Program
from segr1_jax.plan.programs import Programs
from segr1_jax.plan.roofline import Ceilings, Roofline, ceilings, roofline
from segr1_jax.runtime.processes import REPRODUCIBLE, UNTUNED

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
# Triton without a GPU to measure on, for products of widths such as 48 or 96.
UNTILED = "Couldn't find output tile sizes"


@dataclass(frozen=True)
class Compiled:
    """Figures and text of one compiled program, for one device.

    Attributes:
        temporaries: bytes besides arguments and results.
        results: bytes of results that do not alias an argument.
        flops: the compiler's count, with every loop body counted once.
        seconds: duration of the compilation.
        text: optimized HLO.
        fault: the compiler's error, where the program exceeds the device's memory.
    """

    name: str
    temporaries: float = 0.0
    results: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0
    text: str = ""
    fault: str = ""


def options_of(programs: Programs) -> dict[str, Any]:
    """Return the options of the compiler that a run of these programs sets (runtime/processes)."""
    on_gpus = programs.engine.placement.on_gpus
    return UNTUNED | REPRODUCIBLE if programs.config.deterministic and on_gpus else {}


def compile_program(
    program: Program, options: Mapping[str, Any] = MappingProxyType({})
) -> Compiled:
    """Lower and compile a program with options of the compiler.

    A program that exceeds the device's memory is returned with its error; others are raised.

    Raises:
        UserError: Triton, which a GPU topology cannot tune, has no tiles for a product.
    """
    began = time.perf_counter()
    try:
        lowered = program.function.lower(*program.arguments)
        executable = lowered.compile(compiler_options=dict(options))
    except JaxRuntimeError as error:
        fault = str(error).splitlines()[0]
        if UNTILED in fault:
            raise UserError(
                f"--topology: {program.name}",
                expected="products that Triton can tile without measurements on a GPU",
                got=fault[:200],
                remedy="set XLA_FLAGS=--xla_gpu_enable_triton_gemm=false, which leaves them to "
                "cuBLAS",
            ) from error
        if OUT_OF_MEMORY not in fault:
            raise
        return Compiled(
            program.name, temporaries=float("inf"), seconds=time.perf_counter() - began, fault=fault
        )
    return figures(program.name, executable, time.perf_counter() - began)


def figures(name: str, executable: Any, seconds: float) -> Compiled:
    """Return the figures of an executable whose compilation took `seconds`."""
    # A GPU compiler without a device gives no cost analysis.
    memory, cost = executable.memory_analysis(), executable.cost_analysis() or {}
    return Compiled(
        name,
        temporaries=memory.temp_size_in_bytes,
        results=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        flops=cost.get("flops", 0.0),
        seconds=seconds,
        text=executable.as_text(),
    )


def rooflines(
    programs: Programs, device: Device, compiled: Sequence[Compiled]
) -> dict[str, Roofline]:
    """Return the roofline of each program.

    The result is empty if the devices are not GPUs or a program did not compile. Decoding is
    assumed to run to the token limit.
    """
    at, config = ceilings(device), programs.config
    if at is None or not all(each.text for each in compiled):
        return {}
    trips = {"sample_block": config.rollout.max_tokens, "answer_block": config.answer_tokens}
    return {
        each.name: roofline_of(programs, each, at, trips.get(each.name, 1)) for each in compiled
    }


def roofline_of(programs: Programs, compiled: Compiled, at: Ceilings, trips: int = 1) -> Roofline:
    """Return the roofline of one program, whose loop over tokens takes `trips` iterations."""
    share = programs.arch.vision.full_share
    return roofline(kernels(compiled.text, trips=trips, true_share=share), at)

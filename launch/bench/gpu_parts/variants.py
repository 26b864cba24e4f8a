"""Gradient and decoding under other options of the compiler, in one process.

An option is given to one compilation, so the process need not start again with other XLA_FLAGS.
"""

import functools

import jax
from gpu_parts.request import Add, Request, attempt, median_of
from gpu_parts.step import (
    Decoding,
    Gradient,
    compile_with,
    make_weights,
    pixel_prompts,
    programs_of,
    samples,
)

from segr1_jax.runtime.processes import REPRODUCIBLE, UNTUNED
from segr1_jax.training.engine import Engine

OPTIONS = {
    "as shipped": {},
    "Triton products off": UNTUNED,
    "deterministic ops": REPRODUCIBLE,
    "both, as deterministic has them": REPRODUCIBLE | UNTUNED,
    # No sequence of kernels is long enough for a command buffer.
    "command buffers off": {"xla_gpu_graph_min_graph_size": 1_000_000},
}
# Each costs a compilation.
TOY_OPTIONS = ("as shipped", "deterministic ops")


def measure(request: Request, add: Add) -> None:
    """Add a row for each program and each set of options."""
    request.prepare_jax()
    variants = Variants(request)
    chosen = TOY_OPTIONS if request.toy else tuple(OPTIONS)
    for name in ("gradient", "sample_block"):
        for title in chosen:
            run = functools.partial(variants.row, name, OPTIONS[title])
            attempt(add, f"{name}, {title}", run)


class Variants:
    """The two programs and their arrays."""

    def __init__(self, request: Request):
        self.request, self.programs = request, programs_of(request.config)
        self.weights = make_weights(self.programs)
        engine, pixels = self.programs.engine, pixel_prompts(self.programs)
        self.prompts = engine.with_features(pixels, self.weights.all)
        self.shipped: dict[str, float] = {}

    def row(self, name: str, options: dict) -> dict:
        """Return the seconds of a call (of a token, for decoding) under these options."""
        call, program, units = {"gradient": self._gradient, "sample_block": self._block}[name]()
        executable, compiled = compile_with(program, options)
        seconds = median_of(lambda: call(executable), self.request.calls) / units
        if not options:
            self.shipped[name] = seconds
        return {
            "seconds": seconds,
            "of_shipped": seconds / self.shipped[name] if name in self.shipped else None,
            "compile_s": round(compiled.seconds, 2),
            "temporaries_bytes": compiled.temporaries,
        }

    def _gradient(self):
        chosen = samples(self.programs, self.prompts)
        return Gradient(self.programs, self.weights, chosen), self.programs.gradient, 1

    def _block(self):
        program, calls = self.programs.decode, self.request.calls
        block = Decoding(self.programs, program, *self._prefilled, calls)
        return block, program, block.tokens

    @functools.cached_property
    def _prefilled(self) -> tuple:
        """The copy of the weights for decoding, the prompts as it reads them, and its state."""
        engine: Engine = self.programs.engine
        key = jax.device_put(engine.rollout_key(0), engine.placement.replicated)
        positions = engine.put_positions(range(self.programs.config.batch))
        prefilled, state, _ = engine.sampler.prefill(self.weights.all, self.prompts, key, positions)
        return engine.decode_weights(self.weights.all), prefilled, state

"""The programs of a step with random weights: time and memory beside the plan's.

Prompts are at their token limit, and so are completions unless a row says otherwise: that is what
the plan assumes. Memory is compared from the rollout to the update, with the buffers that a run
has at these moments, less those of its evaluation.
"""

import functools
import time
from collections.abc import Callable

import jax
from gpu_parts.request import Add, Request, attempt, median_of
from gpu_parts.rows import Rows, memory
from gpu_parts.step import (
    Decoding,
    Gradient,
    Update,
    compile_with,
    decode_at,
    make_weights,
    pixel_prompts,
    programs_of,
    samples,
    with_answers,
    zeros,
)

from segr1_jax.plan.program import Program
from segr1_jax.training.block_sampler import steps_to


def measure(request: Request, add: Add) -> None:
    """Add a row for each program, and rows for the rollout and the step that they make up."""
    request.prepare_jax()
    began = time.perf_counter()
    step = Step(request)
    jax.block_until_ready(step.weights.all)
    add({"name": "weights", "seconds": time.perf_counter() - began, **memory()})

    def keeping(row: dict) -> None:
        step.seconds[row["name"]] = row.get("seconds")
        step.predicted[row["name"]] = row.get("predicted_s")
        add(row)

    for name, method in step.methods.items():
        attempt(keeping, name, method)
    attempt(add, "rollout", step.rollout)
    attempt(add, "step", step.whole)


class Step:
    """Arrays of a step on the device, and the measurement of each program in the order of a step.

    A measurement leaves what the next ones need.
    """

    def __init__(self, request: Request):
        self.request, self.config = request, request.config
        self.programs = programs_of(request.config)
        self.rows = Rows(request, self.programs)
        self.weights = make_weights(self.programs)
        self.prompts = self.pixels = pixel_prompts(self.programs)
        self.seconds: dict[str, float | None] = {}
        self.predicted: dict[str, float | None] = {}
        sampler = self.programs.engine.sampler
        self.capacities = steps_to(0, sampler.sampler.max_tokens, sampler.bucket_tokens)

    @functools.cached_property
    def methods(self) -> dict[str, Callable[[], dict]]:
        """Return the measurements by the name of their row."""
        short = with_answers(self.programs, self.request.answer_tokens)
        methods = {"features": self.features} if self.config.policy.tower == "frozen" else {}
        methods |= {"decode_weights": self.decode_weights, "sample_prefill": self.prefill}
        # The largest first: it is the one that the plan describes.
        for slots in reversed(self.capacities):
            methods[f"sample_block, {slots} slots"] = lambda slots=slots: self.block(slots)
        methods["reference_logprobs"] = self.reference
        methods["gradient"] = lambda: self.gradient(self.programs)
        if short.capacity < self.programs.capacity:
            name = f"gradient, answers of {self.request.answer_tokens}"
            methods[name] = lambda: self.gradient(short)
        return methods | {"update": self.update}

    def features(self) -> dict:
        arguments = (self.weights.all, self.pixels.images)
        row, images = self._plain(self.programs.features, arguments)
        self.prompts = self.pixels._replace(images=images)
        return row

    def decode_weights(self) -> dict:
        row, self.decode = self._plain(self.programs.copy, (self.weights.all,))
        return row

    def prefill(self) -> dict:
        engine = self.programs.engine
        key = jax.device_put(engine.rollout_key(0), engine.placement.replicated)
        positions = engine.put_positions(range(self.config.batch))
        arguments = (self.weights.all, self.prompts, key, positions)
        row, (self.prefilled, self.decoding, _) = self._plain(self.programs.prefill, arguments)
        return row

    def block(self, slots: int) -> dict:
        """Measure decoding; the seconds are those of a token of all completions."""
        program = decode_at(self.programs, slots)
        executable, compiled = compile_with(program, {})
        calls = self.request.calls
        block = Decoding(self.programs, program, self.decode, self.prefilled, self.decoding, calls)
        seconds = median_of(lambda: block(executable), calls)
        arguments = (self.decode, block.prefilled, block.before)
        row = self.rows.of(compiled, seconds, arguments, (block.state,), block.tokens)
        assert int(block.state.step) == slots, "a completion has ended"
        for figure in ("seconds", "predicted_s"):
            row[figure] = row[figure] and row[figure] / block.tokens
        return row | {"ms_per_token": 1e3 * row["seconds"]}

    def reference(self) -> dict:
        # The copy for decoding is freed after the rollout, as in a run.
        self.decode = self.prefilled = self.decoding = None
        chosen = samples(self.programs, self.prompts)
        completions = chosen.completions
        scored = (chosen.prompts, completions.tokens, completions.mask)
        return self._plain(self.programs.reference_logprobs, (self.weights.reference, *scored))[0]

    def gradient(self, programs) -> dict:
        executable, compiled = compile_with(programs.gradient, {})
        chosen = samples(programs, self.prompts)
        gradient = Gradient(programs, self.weights, chosen)
        seconds = median_of(lambda: gradient(executable), self.request.calls)
        row = self.rows.of(compiled, seconds, (None, *gradient.arguments), gradient.totals)
        return row | {"capacity": chosen.capacity}

    def update(self) -> dict:
        (update,) = self.programs.updates
        executable, compiled = compile_with(update, {})
        call = Update(self.weights.state, zeros(self.programs.totals))
        # The first call donates the weights: nothing runs after the update.
        self.weights = None
        seconds = median_of(lambda: call(executable), self.request.calls)
        return self.rows.of(compiled, seconds, (), None)

    def rollout(self) -> dict:
        """Return the seconds of a rollout to the token limit, and completions per second."""
        row = self._sum(self._rollout_calls())
        completions = self.config.batch * self.config.rollout.group
        return row | {"completions_per_s": row["seconds"] and completions / row["seconds"]}

    def whole(self) -> dict:
        """Return the seconds of a step without input, rewards and idle time."""
        calls = self._rollout_calls() | {
            "gradient": self.config.micro_batches,
            "update": 1,
        }
        if self.config.objective.beta > 0:
            calls["reference_logprobs"] = self.config.micro_batches
        return self._sum(calls)

    def _rollout_calls(self) -> dict[str, int]:
        """Return the calls by row, for decoding the tokens at each size of the caches."""
        names = ("features", "decode_weights", "sample_prefill")
        calls = {name: 1 for name in names if name in self.methods}
        reached = 0
        for slots in self.capacities:
            calls[f"sample_block, {slots} slots"] = slots - reached
            reached = slots
        return calls

    def _sum(self, calls: dict[str, int]) -> dict:
        seconds, predicted = (
            None if None in map(known.get, calls) else sum(known[k] * n for k, n in calls.items())
            for known in (self.seconds, self.predicted)
        )
        ratio = seconds / predicted if seconds and predicted else None
        return {"seconds": seconds, "predicted_s": predicted, "ratio": ratio}

    def _plain(self, program: Program, arguments: tuple) -> tuple[dict, object]:
        """Measure a program that donates nothing; return its row and its result."""
        executable, compiled = compile_with(program, {})
        result = executable(*arguments)
        seconds = median_of(lambda: executable(*arguments), self.request.calls)
        return self.rows.of(compiled, seconds, arguments, result), result

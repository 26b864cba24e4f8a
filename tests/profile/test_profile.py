"""`segr1 profile` on a tiny run.

What it reports agrees with the run's own metrics, with the trace and with itself.
"""

import dataclasses
import json
from pathlib import Path

import jax
import pytest
from tiny_run import small_config, without_sidecar
from tolerances import MAX_PHASE_GAP

from segr1_jax.errors import UserError
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.profile import command
from segr1_jax.profile.command import WARM_UP, profile_command
from segr1_jax.profile.profile_table import markdown, to_json
from segr1_jax.profile.trace import host_events, trace_file
from segr1_jax.runtime.metrics_log import read_metrics
from segr1_jax.runtime.run_directory import RunDir
from segr1_jax.runtime.step_trace import STEP_EVENT

pytestmark = pytest.mark.e2e

STEPS, TURNS = 2, 4
PEAK = 1e12  # FLOP/s
GRPO_PHASES = {"input", "encode", "rollout", "reward", "reference", "update", "other"}


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """(profile, folder of compiled texts) of a tiny GRPO run."""
    folder = tmp_path_factory.mktemp("profiled")
    config = small_config(
        make_tiny_policy(folder / "tiny", seed=1, frame=84), folder / "run", "micro_batches=2"
    )
    with pytest.MonkeyPatch.context() as patch:
        without_sidecar(patch, lambda position: (0.0, 1.0), caller=command)
        jax.config.update("jax_disable_most_optimizations", True)
        yield profile_command(config, STEPS, PEAK, folder / "hlo"), folder / "hlo"
        jax.config.update("jax_disable_most_optimizations", False)


def test_phases_add_up_to_the_step_and_are_those_of_the_metrics(profiled):
    made, _ = profiled
    assert set(made.phases) == GRPO_PHASES
    assert made.accounted == pytest.approx(1, abs=MAX_PHASE_GAP), (
        "the metrics' clock against the trace's"
    )
    lines = [line for line in read_metrics(RunDir(Path(made.directory))) if "time/step_s" in line]
    assert [line["step"] for line in lines] == list(range(1, WARM_UP + 2 * STEPS + 1))
    traced = lines[WARM_UP : WARM_UP + STEPS]
    assert made.phases["rollout"] == pytest.approx(
        sum(line["time/rollout_s"] for line in traced) / STEPS
    )
    assert made.phases["other"] < 0.5 * made.step_seconds, "most of a step lies in named phases"


def test_the_trace_shows_the_traced_steps_and_their_phases(profiled):
    made, _ = profiled
    assert set(made.traced_names) >= {"step", "input", "rollout", "reward", "reference", "update"}
    file = trace_file(RunDir(Path(made.directory)).profile)
    assert str(file) == made.trace
    seconds = host_events(file)
    assert seconds["reference"] == pytest.approx(
        STEPS * made.phases["reference"], abs=MAX_PHASE_GAP * made.step_seconds
    )


def test_steps_are_found_whatever_the_program_is_called(tmp_path):
    """Threads go by the name of the program: python here, segr1 for those who use the command."""
    name, before = Path("/proc/self/comm"), Path("/proc/self/comm").read_text()
    name.write_text("segr1")
    try:
        with (
            jax.profiler.trace(str(tmp_path)),
            jax.profiler.StepTraceAnnotation(STEP_EVENT, step_num=1),
        ):
            jax.block_until_ready(jax.numpy.ones(3) + 1)
    finally:
        name.write_text(before)
    assert host_events(trace_file(tmp_path))[STEP_EVENT] > 0


def test_a_trace_without_steps_says_so(tmp_path):
    with jax.profiler.trace(str(tmp_path)):
        jax.block_until_ready(jax.numpy.ones(3) + 1)
    with pytest.raises(UserError, match="'step'"):
        host_events(trace_file(tmp_path))


def test_functions_are_counted_once_compiled_and_measured(profiled):
    made, _ = profiled
    functions = {function.name: function for function in made.functions}
    per_step = {
        "decode_weights": 1,
        "sample_prefill": 1,
        "sample_grow": 1,
        "sample_block": 1,
        "reference_logprobs": 2,
        "micro_batch": 2,
        "zero_totals": 1,
        "gradient": 2,
        "update": 1,
    }
    assert {name: f.calls_per_step for name, f in functions.items() if f.calls_per_step} == per_step
    assert all(
        functions[name].compilations >= 1 and functions[name].compile_seconds > 0
        for name in per_step
    )
    gradient = functions["gradient"]
    assert gradient.hfu == pytest.approx(gradient.flops / gradient.seconds / PEAK)
    assert gradient.mfu == pytest.approx(gradient.model_flops / gradient.seconds / PEAK)
    assert 2.5 < gradient.flops / functions["reference_logprobs"].flops < 4, (
        "a backward pass costs two forward ones"
    )
    assert gradient.model_flops == pytest.approx(3 * functions["reference_logprobs"].model_flops), (
        "no padding, nothing twice"
    )
    assert gradient.model_flops < gradient.flops
    assert min(gradient.argument_bytes, gradient.temporary_bytes, gradient.output_bytes) > 0
    assert functions["update"].mfu is None, "it multiplies no matrices"
    assert made.split.prefill == pytest.approx(functions["sample_prefill"].seconds)
    assert made.split.decode == pytest.approx(functions["sample_block"].seconds)
    assert 1 <= made.split.turns <= TURNS


def test_compiled_texts_carry_the_scopes(profiled):
    texts = {path.stem: path.read_text() for path in profiled[1].iterdir()}
    scopes = {
        "sample_prefill": ("prefill", "vision_tower", "text_layer"),
        "sample_block": ("decode", "text_layer", "head"),
        "gradient": ("vision_tower", "text_layer", "head", "loss"),
        "update": ("optimizer",),
    }
    for name, expected in scopes.items():
        assert all(
            f"{scope}/" in texts[name] or f"{scope})/" in texts[name] for scope in expected
        ), name


def test_reports_say_the_same(profiled):
    made, _ = profiled
    record, text = json.loads(to_json(made)), markdown(made)
    assert record["phases"] == made.phases
    assert "MFU = model FLOPs" in text
    assert "1e+12 FLOP/s per device, as given" in text
    assert made.trace in text
    assert all(f"| {name} |" in text for name in (*made.phases, "gradient", "prefill"))
    unknown = dataclasses.replace(
        made, peak=None, peak_source="left out: no peak is known for 'cpu'", split=None
    )
    assert "left out" in markdown(unknown)

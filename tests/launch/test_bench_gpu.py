"""launch/bench/gpu.py: parts 1 to 4 at toy size on the CPU, and what limits and faults leave."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import jax
import pytest

sys.path.append(str(Path(__file__).parents[2] / "launch"))
sys.path.append(str(Path(__file__).parents[2] / "launch" / "bench"))
import gpu
from gpu_parts import step
from gpu_parts.marked_tests import row_of
from gpu_parts.record import Record
from gpu_parts.request import Request
from gpu_parts.runner import Part, interrupt, run_parts
from gpu_parts.training import SameScores

from segr1_jax.config.loading import load_config
from segr1_jax.reward.client import RewardClient

pytestmark = pytest.mark.usefixtures("compile_quickly")

ROOT = Path(__file__).parents[2]
MEASURED = ("ceilings", "attention", "programs", "variants")
# 4 prompts of 4 answers of 16 tokens, in 2 micro-batches: one capacity, which compiles faster.
COMPLETIONS, TOKENS, MICRO_BATCHES = 16, 16, 2
SMALL = ["rollout.max_tokens=16", "--answer-tokens", "8"]


def bench(out: Path, *words: str) -> subprocess.CompletedProcess:
    # One device: a mesh of eight takes much longer to compile for.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "launch/bench/gpu.py", "--toy", *words, "--out", str(out)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def rows(whole: dict, part: str) -> dict[str, dict]:
    return {row["name"]: row for row in whole["parts"][part]["rows"]}


@pytest.fixture(scope="module")
def toy(tmp_path_factory, compile_quickly) -> dict:
    """The record of the parts 1 to 4."""
    out = tmp_path_factory.mktemp("toy") / "out"
    done = bench(out, *SMALL, "--parts", *MEASURED)
    assert done.returncode == 0, done.stdout + done.stderr + (out / "gpu.log").read_text()
    assert {file.name for file in out.iterdir()} == {"gpu.json", "gpu.md", "gpu.log"}
    assert done.stdout.strip() == (out / "gpu.md").read_text().strip()
    whole = json.loads((out / "gpu.json").read_text())
    assert [part["status"] for part in whole["parts"].values()] == ["ok"] * 4
    return whole


@pytest.mark.e2e
def test_ceilings_are_the_best_rates(toy):
    found = rows(toy, "ceilings")
    product, copied = found["product of 128, bfloat16, default precision"], found["copy of 4 MiB"]
    # 128^3 = 2,097,152 multiply-adds.
    assert product["flops"] == 4_194_304
    assert product["flops_per_s"] == pytest.approx(4_194_304 / product["seconds"])
    # Read and written.
    assert copied["bytes"] == 8_388_608
    larger = found["product of 256, bfloat16, default precision"]["flops_per_s"]
    best = found["ceilings"]
    assert best["bfloat16_flops_per_s"] == max(product["flops_per_s"], larger)
    assert best["bytes_per_s"] >= copied["bytes_per_s"]


@pytest.mark.e2e
def test_attention_is_near_float32(toy):
    found = rows(toy, "attention")
    errors = [row["relative_error"] for row in found.values() if "relative_error" in row]
    # bfloat16 has 8 bits; two directions of three patterns.
    assert len(errors) == 6
    assert all(1e-4 < error < 2**-7 for error in errors)
    assert found["prefix of 48, cudnn"]["skipped"] == "needs an NVIDIA GPU"


@pytest.mark.e2e
def test_programs_make_up_a_step(toy):
    found = rows(toy, "programs")
    block = found["sample_block, 16 slots"]
    once = sum(found[name]["seconds"] for name in ("features", "decode_weights", "sample_prefill"))
    rollout = once + TOKENS * block["seconds"]
    assert found["rollout"]["seconds"] == pytest.approx(rollout)
    assert found["rollout"]["completions_per_s"] == pytest.approx(COMPLETIONS / rollout)
    scored = found["reference_logprobs"]["seconds"] + found["gradient"]["seconds"]
    step = rollout + MICRO_BATCHES * scored + found["update"]["seconds"]
    assert found["step"]["seconds"] == pytest.approx(step)
    assert found["gradient"]["capacity"] == 64
    # With adapters a gradient is two passes over the work of the reference.
    forward = found["reference_logprobs"]["model_flops"]
    assert found["gradient"]["model_flops"] == 2 * forward
    # Programs for a CPU have no kernels that the plan could count.
    assert found["gradient"]["predicted_s"] is found["gradient"]["ratio"] is None
    assert found["update"]["planned_peak_bytes"] >= found["features"]["planned_peak_bytes"] > 0


@pytest.mark.e2e
def test_variants_are_compared_with_what_is_shipped(toy):
    found = rows(toy, "variants")
    assert len(found) == 4
    for name in ("gradient", "sample_block"):
        shipped, other = (found[f"{name}, {x}"] for x in ("as shipped", "deterministic ops"))
        assert shipped["of_shipped"] == 1
        assert other["of_shipped"] == pytest.approx(other["seconds"] / shipped["seconds"])


def test_shorter_answers_have_a_smaller_capacity():
    whole = step.programs_of(load_config(gpu.CONFIG, gpu.TOY))
    short = step.with_answers(whole, 40)
    # 4 x 100 and 4 x 40 tokens of a prompt, rounded up.
    assert (whole.capacity, short.capacity) == (400, 256)
    assert whole.engine.sampler.sampler.end_tokens[0] in whole.engine.policy.arch.never_sampled
    chosen = step.samples(short, step.pixel_prompts(short))
    # 2 prompts of 4 answers.
    assert chosen.completions.mask.sum() == 2 * 4 * 40
    caches = jax.tree.leaves(step.decode_at(whole, 32).arguments[3])
    assert {x.shape[-2] for x in caches} == {32}


@pytest.fixture
def record(tmp_path):
    record = Record(tmp_path / "out")
    record.begin(command="gpu.py", toy=True)
    return record


def run(record: Record, programs: dict[str, str], seconds: float = 60, limit: float = 30) -> None:
    """Run parts whose processes are Python programs."""
    parts = [Part(name, name, limit) for name in programs]
    deadline = time.monotonic() + seconds
    run_parts(parts, lambda part: [sys.executable, "-c", programs[part.name]], record, deadline, {})


def statuses(record: Record) -> dict[str, str]:
    whole = json.loads(record.file.read_text())
    return {name: part["status"] for name, part in whole["parts"].items()}


def test_a_part_that_fails_is_recorded_and_the_next_one_runs(record):
    programs = {
        "broken": "raise SystemExit('no kernel image')",
        "crashed": "import os; print('compiling', flush=True); os.abort()",
        "fine": "print(1)",
    }
    run(record, programs)
    assert statuses(record) == {"broken": "failed", "crashed": "failed", "fine": "ok"}
    assert record.part("broken")["error"] == "exit status 1: no kernel image"
    assert record.part("crashed")["error"] == "killed by SIGABRT: compiling"
    assert "## crashed: failed" in record.page_file.read_text()


def test_a_row_with_an_error_fails_its_part(record):
    record.add("attention", {"name": "cudnn", "error": "no such kernel"})
    record.add("attention", {"name": "xla", "seconds": float("nan")})
    run(record, {"attention": "raise SystemExit(1)"})
    part = record.part("attention")
    assert (part["status"], part["error"]) == ("failed", "rows with an error: cudnn")
    assert [row.get("seconds") for row in part["rows"]] == [None, "nan"]


def test_limits_stop_a_part_with_its_children_and_keep_its_rows(record, tmp_path):
    pid = tmp_path / "pid"
    # The child writes its own id; a part leaves a partial file when it is killed.
    child = f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid()))"
    sleeper = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r} + "
    sleeper += "'; time.sleep(60)'])"
    record.add("slow", {"name": "first", "seconds": 1.0})
    record.file.with_name(".gpu.json.0123").touch()
    began = time.monotonic()
    # The deadline leaves 3 s to the part, and too little to the next one.
    run(record, {"slow": sleeper, "late": "print(1)"}, seconds=6)
    assert time.monotonic() - began < 10
    assert statuses(record) == {"slow": "failed", "late": "skipped"}
    assert record.part("slow")["error"] == "stopped after its 3 s; its rows are kept"
    assert record.row("slow", "first")["seconds"] == 1.0
    assert sorted(x.name for x in record.file.parent.iterdir()) == ["gpu.json", "gpu.log", "gpu.md"]
    # A zombie has no command line.
    command = Path(f"/proc/{pid.read_text()}/cmdline")
    assert not command.exists() or not command.read_bytes()


def test_an_interruption_leaves_what_was_written(record):
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(record, {"fine": "1", "slow": "import time; time.sleep(60)", "late": "1"})
    finally:
        signal.signal(signal.SIGALRM, before)
    assert statuses(record) == {"fine": "ok", "slow": "failed"}
    assert record.part("slow")["error"] == "interrupted"


def test_ceilings_are_those_that_were_measured(record):
    request = Request(None, True, 40, record)
    assert request.ceilings() is None
    row = {"bytes_per_s": 2e12, "bfloat16_flops_per_s": 6e14, "float32_flops_per_s": 3e14}
    record.add("ceilings", {"name": "ceilings"} | row)
    found = request.ceilings()
    assert (found.bandwidth, found.half, found.single) == (2e12, 6e14, 3e14)


def test_results_of_pytest_are_rows():
    text = '<testcase name="test_masks" time="2.5"><failure message="2 pixels&#10; differ"/>'
    row = row_of(ElementTree.fromstring(text + "</testcase>"))
    assert row == {"name": "test_masks", "seconds": 2.5, "error": "2 pixels differ"}


def test_clients_without_a_sidecar_have_what_a_run_calls():
    public = {name for name in vars(RewardClient) if not name.startswith("_")}
    assert public - {"start", "close", "sidecar_pids"} <= set(dir(SameScores))


def test_a_mistake_is_one_sentence_before_anything_runs(tmp_path, monkeypatch, capsys):
    words = ["gpu.py", "--toy", "rollout.grup=2", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    assert gpu.main() == 2
    assert "rollout.group" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

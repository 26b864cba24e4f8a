"""Whole plans of a small architecture.

What fits, which knob is found, seconds by hand, and the command.
"""

import json
import math
from pathlib import Path

import pytest
from jax.errors import JaxRuntimeError
from jax.sharding import AbstractMesh
from tiny_arch import CONFIG, OVERRIDES

from segr1_jax.cli import main
from segr1_jax.config.hardware import DEVICES, Device, device_named
from segr1_jax.config.loading import load_config, override
from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError
from segr1_jax.plan.command import plan_before_training, plan_command
from segr1_jax.plan.compiled import compile_program
from segr1_jax.plan.estimate import MARGIN
from segr1_jax.plan.fit import changes, find_fit
from segr1_jax.plan.phases import BANDWIDTH_SHARE, MATMUL_SHARE, decode_bytes
from segr1_jax.plan.program import Program
from segr1_jax.plan.programs import Programs
from segr1_jax.plan.run_plan import make_plan
from segr1_jax.plan.topology import topology_devices
from segr1_jax.policy.qwen2_5_vl.arch import arch_from_config
from segr1_jax.runtime.mesh import AXES, AXIS_TYPES

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("**/*.yaml"))
ARCH = arch_from_config(CONFIG)
ONE_DEVICE = AbstractMesh((1, 1, 1), AXES, axis_types=AXIS_TYPES)
ONE = ("mesh.data=1", "mesh.fsdp=1", "mesh.tensor=1")


def config(*overrides: str) -> RunConfig:
    return override(RunConfig(), [*OVERRIDES, *overrides])


def device(memory: float) -> Device:
    return Device("small", memory, flops=1e9, bandwidth=1e6, jax_share=1.0)


@pytest.fixture(scope="module")
def roomy():
    return make_plan(config(*ONE), ARCH, device(1e12), 1)


def test_what_does_not_fit_fits_with_the_knob_that_is_named(roomy):
    assert roomy.verdict == "fits"
    assert roomy.remedy is None
    small = device(0.97 * roomy.peak[roomy.highest])
    large = make_plan(config(*ONE), ARCH, small, 1)
    assert large.verdict == "does not fit"
    changed = make_plan(config(*ONE, *large.remedy), ARCH, small, 1, remedy=False)
    assert changed.verdict == "fits"


def test_what_fits_without_its_margin_alone_is_tight(roomy):
    """The margin is on temporaries: what a run holds is counted, not estimated."""
    kept = {
        m: sum(b.bytes for b in roomy.buffers if m in b.moments and not b.temporary)
        for m in roomy.peak
    }
    high = max(kept[moment] + MARGIN * (roomy.peak[moment] - kept[moment]) for moment in kept)
    assert roomy.high == pytest.approx(high)
    assert roomy.peak[roomy.highest] < high
    between = device((roomy.peak[roomy.highest] + high) / 2)
    tight = make_plan(config(*ONE), ARCH, between, 1)
    assert tight.verdict == "tight"
    assert tight.remedy
    assert make_plan(config(*ONE), ARCH, device(high), 1).verdict == "fits"


def test_the_cap_of_an_evaluation_is_planned():
    def tokens(*overrides: str) -> tuple[int, ...]:
        programs = Programs(config(*ONE, *overrides), ARCH, ONE_DEVICE)
        calls = (programs.decode, programs.answer_decode)
        outputs = (call.function.eval_shape(*call.arguments)[0] for call in calls)
        return tuple(state.samples.tokens.shape[-1] for state in outputs)

    assert tokens() == (12, 12)
    assert tokens("eval_max_tokens=5") == (12, 5)


def test_one_knob_alone_is_tried_before_several_together():
    known = list(changes(config(*ONE), ARCH, 1))
    assert known[:3] == [
        ["micro_batches=2"],
        ["micro_batches=8"],
        ["eval_batch=1"],
    ]  # remat is on, the chunk small already
    assert find_fit(config(*ONE), ARCH, 1, lambda other: other.eval_batch == 1) == ["eval_batch=1"]
    both = find_fit(
        config(*ONE), ARCH, 1, lambda other: other.eval_batch == 1 and other.micro_batches > 1
    )
    assert both == ["micro_batches=2", "micro_batches=8", "eval_batch=1"]
    assert find_fit(config(*ONE), ARCH, 1, lambda other: False) is None


def test_seconds_by_hand(roomy):
    phases = {phase.name: phase for phase in roomy.phases}
    update = phases["update"]
    assert update.seconds == pytest.approx(update.flops / (1e9 * MATMUL_SHARE))
    read = 12 * decode_bytes(Programs(config(*ONE), ARCH, ONE_DEVICE))
    assert phases["decode"].seconds == pytest.approx(
        max(read / (1e6 * BANDWIDTH_SHARE), phases["decode"].flops / (1e9 * MATMUL_SHARE))
    )
    assert phases["SAM2"].seconds is None  # the nano SAM2 on a CPU is in no table


def test_decoding_reads_the_language_model_and_its_caches():
    """Two bytes for each weight but the tower's, the prefix, and half of the longest completion.

    The tied head is the embedding.
    """
    text = ARCH.text
    layer = 64 * (64 + 32 + 32) + (64 + 32 + 32) + 64 * 64 + 3 * 64 * 96 + 2 * 64
    weights = 512 * 64 + text.layers * layer + 64
    caches = (
        8 * 40 * 896 + 8 * 2 * 12 * 896 / 2
    )  # 7 layers x (k, v) x 2 heads x 16 x 2 bytes = 896 a token
    assert decode_bytes(Programs(config(*ONE), ARCH, ONE_DEVICE)) == 2 * weights + caches


def test_an_sft_plan_has_no_rollout():
    plan = make_plan(config(*ONE, "stage=sft"), ARCH, device(1e12), 1)
    assert {phase.name for phase in plan.phases} == {"update", "optimizer"}
    assert "reference" not in {buffer.name for buffer in plan.buffers}


def test_shorter_answers_take_less_time_and_no_less_memory():
    """4 answers of 100 tokens need the capacity of 512 of 800."""
    sizes = ("rollout.group=4", "rollout.max_tokens=200")
    longest, shorter = (
        make_plan(config(*ONE, *sizes), ARCH, device(1e12), 1, answer_tokens=tokens)
        for tokens in (0, 100)
    )
    assert (longest.tokens.capacity, shorter.tokens.capacity) == (800, 512)
    assert shorter.tokens.completions == longest.tokens.completions / 2
    assert shorter.peak == longest.peak
    flops = [{each.name: each.flops for each in plan.phases} for plan in (longest, shorter)]
    assert flops[0]["prefill"] == flops[1]["prefill"]
    for phase in ("reference", "update"):
        assert 512 / 800 < flops[1][phase] / flops[0][phase] < 1


def test_answers_longer_than_completions_are_refused():
    with pytest.raises(UserError, match=r"0 to rollout\.max_tokens = 400, got 401"):
        plan_command(RunConfig(), compile_=False, topology="", answer_tokens=401)


def test_a_batch_that_the_devices_cannot_share_is_refused():
    with pytest.raises(UserError, match="make batch a multiple of 16"):
        make_plan(config("mesh.data=1", "mesh.fsdp=-1", "mesh.tensor=1"), ARCH, device(1e12), 16)


def test_unknown_hardware_is_refused():
    with pytest.raises(UserError, match="one of a100, h100, h200, v5e, v5p, cpu"):
        device_named("")
    with pytest.raises(UserError, match=r"hardware\.kind: expected one of , a100, h100"):
        config("hardware.kind=b9000")


def test_a_tensor_group_across_hosts_is_refused_as_in_training():
    """16 hosts of 4 chips: what v5e:8x8 is. Placement.check_rows would refuse it on the devices."""
    wide = config("mesh.data=1", "mesh.fsdp=8", "mesh.tensor=8", "batch=8", "eval_batch=8")
    assert make_plan(wide, ARCH, device(1e12), 64).verdict == "fits"
    with pytest.raises(UserError, match=r"mesh\.tensor=8 on processes of 4 devices"):
        make_plan(wide, ARCH, device(1e12), 64, hosts=16)
    narrow = config("mesh.data=1", "mesh.fsdp=16", "mesh.tensor=4", "batch=16", "eval_batch=16")
    assert make_plan(narrow, ARCH, device(1e12), 64, hosts=16).verdict == "fits"


def test_a_sidecar_on_cuda_beside_a_tpu_is_refused():
    with pytest.raises(UserError, match=r"reward\.device: expected cpu on hosts of v5e"):
        config("hardware.kind=v5e", "reward.device=cuda")


@pytest.mark.e2e
@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_shipped_configuration_plans_without_an_option(file, tmp_path, monkeypatch):
    """Neither weights nor data are there; the hardware and the architecture are the file's own."""
    monkeypatch.chdir(tmp_path)
    shipped = load_config(file)
    plan = plan_command(shipped, compile_=False, topology="")
    assert plan.verdict == "fits"
    assert math.prod(plan.mesh) == shipped.hardware.devices
    assert shipped.hardware.kind in ("cpu", *DEVICES)


@pytest.mark.parametrize(
    ("topology", "error", "remedy"),
    [
        ("v5e:8x8", RuntimeError("Unable to find libtpu.so"), r"segr1-jax\[tpu\]"),
        ("h100:8", NotImplementedError("topology not implemented for cuda"), r"-jax\[cuda13\]"),
    ],
)
def test_a_topology_without_its_compiler_is_refused(monkeypatch, topology, error, remedy):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", fail)
    with pytest.raises(UserError, match=remedy):
        topology_devices(topology)


@pytest.mark.parametrize(
    ("topology", "expected"),
    [
        ("h100:", "h100:GPUS or h100:HOSTSxGPUS"),
        ("h100:many", "h100:GPUS"),
        ("h100:0", "h100:GPUS"),
        ("h100:2x8x8", "h100:GPUS"),
        ("b9000:8", "a100, h100, h200, v5e, v5p"),
        ("cpu:8", "a100, h100, h200, v5e, v5p"),
    ],
)
def test_an_unknown_topology_is_refused(topology, expected):
    with pytest.raises(UserError, match=f"--topology: expected .*{expected}"):
        topology_devices(topology)


class Failing:
    """A function whose compilation fails with a message."""

    def __init__(self, message: str):
        self.message = message

    def lower(self, *_):
        return self

    def compile(self, compiler_options):
        raise JaxRuntimeError(self.message)


def test_failures_of_a_compiler():
    """Memory is a verdict, products without tiles have a remedy, the rest is no user's fault."""
    full = compile_program(Program("sample", Failing("RESOURCE_EXHAUSTED: 90 GB"), ()))
    assert full.temporaries == math.inf
    assert full.fault == "RESOURCE_EXHAUSTED: 90 GB"
    untiled = "INTERNAL: Couldn't find output tile sizes that satisfy hlo: %dot"
    with pytest.raises(UserError, match=r"sample.*xla_gpu_enable_triton_gemm=false"):
        compile_program(Program("sample", Failing(untiled), ()))
    with pytest.raises(JaxRuntimeError, match="INTERNAL: other"):
        compile_program(Program("sample", Failing("INTERNAL: other"), ()))


def test_the_command_writes_every_figure(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "run.yaml").write_text("steps: 4\n")
    arguments = [
        "plan",
        str(tmp_path / "run.yaml"),
        *OVERRIDES,
        *("hardware.kind=h100", "hardware.chips=8", f"policy.arch={tmp_path / 'config.json'}"),
    ]
    assert main([*arguments, "--json", str(tmp_path / "plan.json")]) == 0
    record = json.loads((tmp_path / "plan.json").read_text())
    assert record["verdict"] == "fits"
    assert record["mesh"] == [2, 2, 2]
    assert math.isclose(
        record["peak"]["start"],
        sum(b["bytes"] for b in record["buffers"] if "start" in b["moments"]),
    )
    shown = capsys.readouterr().out
    assert "fits on h100, mesh 2 x 2 x 2" in shown
    assert "master weights" in shown


class SmallDevice:
    """A device that says how much memory it has."""

    device_kind = "small"

    def __init__(self, limit: int | None):
        self.limit = limit

    def memory_stats(self) -> dict[str, int] | None:
        return self.limit and {"bytes_limit": self.limit}


@pytest.mark.parametrize(("limit", "said"), [(None, ""), (10**9, "plan: fits on small")])
def test_training_says_whether_it_fits(tmp_path, capsys, monkeypatch, limit, said):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    monkeypatch.setattr("jax.local_devices", lambda: [SmallDevice(limit)])
    plan_before_training(config(f"policy.path={tmp_path}", f"run_dir={tmp_path / 'run'}"))
    assert said in capsys.readouterr().err


def test_training_that_surely_does_not_fit_ends_before_weights_are_read(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    monkeypatch.setattr("jax.local_devices", lambda: [SmallDevice(10**5)])
    monkeypatch.setattr("segr1_jax.plan.run_plan.find_fit", lambda *_: None)
    with pytest.raises(UserError, match="use more or larger devices"):
        plan_before_training(config(f"policy.path={tmp_path}", f"run_dir={tmp_path / 'run'}"))

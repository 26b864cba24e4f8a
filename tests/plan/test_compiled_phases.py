"""Phases and tables of a plan whose programs were compiled for GPUs, from costs made by hand."""

import dataclasses

import pytest
from tiny_arch import CONFIG, OVERRIDES

from segr1_jax.config.hardware import DEVICES
from segr1_jax.config.loading import override
from segr1_jax.config.schema import RunConfig
from segr1_jax.plan.compiled import Compiled
from segr1_jax.plan.hlo import Loop
from segr1_jax.plan.phases import compiled_phases
from segr1_jax.plan.plan_table import markdown
from segr1_jax.plan.roofline import Cost, LoopCost, Roofline, ceilings
from segr1_jax.plan.run_plan import make_plan
from segr1_jax.policy.qwen2_5_vl.arch import arch_from_config

PROGRAMS = (
    *("features", "decode_weights", "sample_prefill", "reference_logprobs", "gradient", "update"),
    "sample_block",
)
LAYERS = Loop("while.1", 36, True, "jit(sample_prefill)/prefill/while")
DECODING = Loop("while.2", 400, False, "jit(sample_block)/while")


def cost(seconds: float) -> Cost:
    return Cost(10 * seconds, 1e9 * seconds, 2e12 * seconds, 0.0, 0.0, seconds)


# Of a block's 9 seconds, 400 x 0.02 decode.
ROOFLINES = {name: Roofline(cost(1.0 + place), ()) for place, name in enumerate(PROGRAMS)} | {
    "sample_prefill": Roofline(cost(1.0), (LoopCost(LAYERS, cost(0.01)),)),
    "sample_block": Roofline(cost(9.0), (LoopCost(DECODING, cost(0.02)),)),
}


def config(*overrides: str) -> RunConfig:
    return override(RunConfig(), [*OVERRIDES, "micro_batches=2", *overrides])


def seconds(found: dict[str, Roofline], *overrides: str) -> dict[str, float]:
    return {each.name: each.seconds for each in compiled_phases(config(*overrides), found)}


def test_phases_of_a_step():
    assert seconds(ROOFLINES) == pytest.approx(
        {
            "tower": 1.0,
            "rollout copy": 2.0,
            "prefill": 1.0,
            "decode": 8.0,
            "reference": 2 * 4.0,
            "update": 2 * 5.0,
            "optimizer": 6.0,
        }
    )


def test_an_update_weight_by_weight():
    parts = {"clip_gradient": Roofline(cost(0.5), ()), "step_of_embed": Roofline(cost(2.0), ())}
    found = {name: each for name, each in ROOFLINES.items() if name != "update"} | parts
    phases = {each.name: each for each in compiled_phases(config(), found, 3.5)}
    assert phases["optimizer"].seconds == pytest.approx(0.5 + 3.5 * 2.0)
    assert phases["update"].seconds == 2 * 5.0


def test_phases_of_sft():
    found = {name: ROOFLINES[name] for name in ("gradient", "update", "decode_weights")}
    assert seconds(found, "stage=sft") == {"rollout copy": 2.0, "update": 10.0, "optimizer": 6.0}


def test_tables():
    """A row for each program and loop; the seconds are those of the programs."""
    one = ("mesh.data=1", "mesh.fsdp=1", "mesh.tensor=1")
    plan = make_plan(config(*one), arch_from_config(CONFIG), DEVICES["h100"], 1)
    plan = dataclasses.replace(
        plan,
        compiled=[Compiled(name, text="HloModule") for name in PROGRAMS],
        rooflines=ROOFLINES,
    )
    shown = markdown(plan)
    assert "| sample_block | 9.00 | 18.000 | 90 | 0.00 | 9000.00 |" in shown
    assert "| sample_prefill: prefill/while | 36 | 0.01 | 0.020 | 0 | 0.00 | 10.00 |" in shown
    assert "| sample_block: while | 400 | 0.02 | 0.040 | 0 | 0.00 | 20.00 |" in shown
    assert "lower bounds in seconds" in shown


def test_ceilings_of_other_devices():
    """An H200 has an H100's arithmetic and more bandwidth; nothing is known of a TPU's kernels."""
    h100, h200 = ceilings(DEVICES["h100"]), ceilings(DEVICES["h200"])
    assert h200.half == h100.half == 650e12
    assert h200.bandwidth == pytest.approx(2.8e12 * 4.8 / 3.35)
    assert ceilings(DEVICES["v5e"]) is None

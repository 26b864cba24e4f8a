"""Plans of runs whose moments are on the host: memory, time, and the pool of pinned memory."""

import dataclasses
import math

import pytest
from tiny_arch import CONFIG, OVERRIDES

from segr1_jax.config.hardware import DEVICES
from segr1_jax.config.loading import override
from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError
from segr1_jax.plan.plan_table import markdown
from segr1_jax.plan.run_plan import Plan, make_plan
from segr1_jax.policy.qwen2_5_vl.arch import arch_from_config

ONE = ("mesh.data=1", "mesh.fsdp=1", "mesh.tensor=1")


POOL = "XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB"


def plan_of(place: str, device: str = "h100") -> Plan:
    config = override(RunConfig(), [*OVERRIDES, *ONE, f"optimizer.moments={place}"])
    return make_plan(config, arch_from_config(CONFIG), DEVICES[device], 1)


def test_moments_on_the_host_take_less_memory_and_more_time():
    plans = [plan_of("device"), plan_of("host")]
    weights = next(each.bytes for each in plans[0].buffers if each.name == "master weights")
    less = plans[0].peak["rollout"] - plans[1].peak["rollout"]
    assert less == pytest.approx(2 * weights, abs=100)
    seconds = [{each.name: each.seconds for each in plan.phases} for plan in plans]
    assert seconds[1].pop("host copies") == pytest.approx(2 * 2 * weights / 50e9, rel=1e-4)
    assert seconds[0] == seconds[1]
    # The patch embedding is the largest weight: 48 x 1176 in float32.
    pinned = 2 * weights + 2 * 4 * 48 * 1176
    assert [plan.pinned for plan in plans] == [0, pytest.approx(pinned, abs=100)]
    assert "of the 68.7 GB that XLA takes" in markdown(plans[1])
    assert "pinned" not in markdown(plans[0])
    sizes = [plan.checkpoint.checkpoint for plan in plans]
    assert sizes[0] == sizes[1]


def test_moments_beyond_the_pool_of_pinned_memory_do_not_fit(monkeypatch):
    verdicts = []
    for limit in ("64", "128"):
        monkeypatch.setenv(POOL, limit)
        plan = plan_of("host")
        assert plan.verdict == "fits"
        verdicts.append(dataclasses.replace(plan, pinned=69e9).verdict)
    assert verdicts == ["does not fit", "fits"]


def test_a_tpu_has_no_such_pool_and_a_bad_limit_is_named(monkeypatch):
    plan = plan_of("host", "v5p")
    assert dataclasses.replace(plan, pinned=200e9).verdict == "fits"
    assert "pinned memory for each device of a host." in markdown(plan)
    monkeypatch.setenv(POOL, "128GB")
    assert plan_of("host", "v5p").pinned_pool == plan_of("device").pinned_pool == math.inf
    with pytest.raises(UserError, match=f"{POOL}: expected a number of GiB, got '128GB'"):
        plan_of("host")

"""Bytes that plan counts, against arrays really made and the published checkpoints."""

import math
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_arch import CONFIG, OVERRIDES

from segr1_jax.config.loading import override
from segr1_jax.config.schema import RunConfig
from segr1_jax.hf.load_weights import read_arch_file
from segr1_jax.plan.buffers import ledger, peaks
from segr1_jax.plan.program import shard_bytes
from segr1_jax.plan.programs import Programs
from segr1_jax.policy.params import Policy
from segr1_jax.policy.qwen2_5_vl.arch import arch_from_config
from segr1_jax.runtime.mesh import make_mesh
from segr1_jax.training.block_sampler import RolloutWeights

CONFIGS = Path(__file__).parents[2] / "configs"
PUBLISHED = {
    "3b": 3_754_622_976,
    "7b": 8_292_166_656,
}  # parameters, from the index files of the checkpoints (bfloat16: half the bytes)


def programs(*overrides: str) -> Programs:
    config = override(RunConfig(), [*OVERRIDES, *overrides])
    return Programs(config, arch_from_config(CONFIG), make_mesh(config.mesh))


def device_bytes(tree) -> int:
    """What really lies on one device."""
    device = jax.devices()[0]
    return sum(
        shard.data.nbytes
        for x in jax.tree.leaves(tree)
        for shard in x.addressable_shards
        if shard.device == device
    )


def make(tree):
    return jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding), tree)


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_architectures_have_the_published_number_of_parameters(size):
    policy = Policy(read_arch_file(CONFIGS / "arch" / f"qwen2.5-vl-{size}.json"))
    assert sum(math.prod(spec.shape) for spec in policy.specs.values()) == PUBLISHED[size]


@pytest.mark.parametrize(
    "overrides", [(), ("policy.tower=frozen",), ("policy.tower=frozen", "policy.lora.rank=4")]
)
def test_bytes_are_those_of_the_arrays_that_a_run_makes(overrides):
    plan = programs(*overrides)
    engine = plan.engine
    counted = {buffer.name: buffer.bytes for buffer in ledger(plan, {})}
    trained, frozen, reference = make(plan.state.params), make(plan.frozen), make(plan.reference)
    state = engine.moments.init(trained)
    copy = engine.rollout_weights(frozen | trained)
    prompts = engine.with_features(make(plan.pixels(8)), frozen | trained)
    assert counted["master weights"] == device_bytes(state.params)
    assert counted["optimizer"] == device_bytes(state.opt_state)
    assert counted.get("frozen weights", 0) == device_bytes(frozen)
    assert counted.get("reference", 0) == device_bytes(reference)
    assert counted["rollout copy"] == device_bytes(copy.decode)
    assert counted["prompts"] == device_bytes(prompts)
    assert counted["gradient"] == device_bytes(make(plan.totals)) == shard_bytes(plan.totals)


def test_moments_on_the_host_take_the_bytes_of_one_weight_before_and_after():
    plan = programs("optimizer.moments=host", "optimizer.first_moment=bfloat16")
    counted = {buffer.name: buffer for buffer in ledger(plan, {})}
    state = plan.engine.moments.init(make(plan.state.params))
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert plan.pinned_moments.bytes == pytest.approx(device_bytes(moments), abs=100)
    # The patch embedding, over fsdp; 2 + 4 bytes a weight.
    largest = 2 * 3 * 14 * 14 * 48 / 2 * 6
    assert counted["moments of a weight"].bytes == pytest.approx(2 * largest, abs=100)
    assert counted["moments of a weight"].moments == ("update",)
    assert "optimizer" not in counted


def test_bytes_of_completions_are_those_that_the_sampler_makes():
    plan = programs()
    params, prompts, _, positions = plan.prefill.arguments
    weights = RolloutWeights(make(params), make(plan.rollout_copy))
    key = plan.engine.rollout_key(1)
    drawn = plan.engine.sampler(weights, make(prompts), key, make(positions))
    counted = next(buffer.bytes for buffer in ledger(plan, {}) if buffer.name == "completions")
    assert counted == device_bytes(drawn)


def test_caches_by_hand():
    """Per device 2 of 8 prompts, 1 of 2 key heads.

    7 layers x (k, v) x 16 values x 2 bytes = 448 bytes a token.
    """
    counted = {buffer.name: buffer.bytes for buffer in ledger(programs(), {})}
    assert counted["prefix K/V"] == 2 * 40 * 448
    assert counted["own K/V"] == 2 * 2 * 12 * 448
    assert counted["of these, logits chunk"] == 2 * 2 * 4 * 512 * 4


def test_a_moment_adds_what_is_there():
    buffers = ledger(
        programs("micro_batches=2"),
        {"gradient": 7.0, "decode_weights": 5.0, "sample_block": 11.0},
    )
    size = {buffer.name: buffer.bytes for buffer in buffers}
    always = size["master weights"] + size["optimizer"] + size["reference"]
    expected = (
        always
        + size["prompts"]
        + size["completions"]
        + size["micro-batches"]
        + size["gradient"]
        + 7.0
    )
    assert peaks(buffers)["gradient"] == expected
    assert (
        peaks(buffers)["rollout"]
        == always
        + size["prompts"]
        + size["rollout copy"]
        + size["prefix K/V"]
        + size["own K/V"]
        + 11.0
    )  # one at a time
    assert peaks(buffers)["start"] == always + 2 * size["reference"]  # float32 beside bfloat16

"""Training less than everything.

Low-rank adapters, and checkpoints that hold only what was trained.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from adapter_engine import LORA, B, T, load, logprobs, make_engine, state_at
from peft import PeftModel
from tolerances import TOL_COMPLEX, TOL_SIMPLE
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers_oracle import EOS, batch_of, make_prompt, oracle_logits

from segr1_jax.config.schema import PolicyConfig
from segr1_jax.errors import UserError
from segr1_jax.hf.peft_adapter import export_adapter
from segr1_jax.hf.save_weights import export_policy
from segr1_jax.objective.batch import AnswerBatch
from segr1_jax.objective.loss import answer_loss
from segr1_jax.objective.update import TrainBatch, make_gradient
from segr1_jax.policy.logprobs import score_tokens
from segr1_jax.policy.params import ADAPTER
from segr1_jax.policy.sharding import TRAIN_RULES
from segr1_jax.rollout.sampler import make_sampler
from segr1_jax.runtime.checkpoint import Checkpoints
from segr1_jax.runtime.initial_weights import Start


@pytest.fixture(scope="module")
def adapted(base):
    """Engine with adapters, its frozen weights, and adapters after some training (B is not 0)."""
    engine = make_engine(base[1], tower="frozen", lora=LORA)
    fresh = engine.init_adapters()
    keys = jax.random.split(jax.random.key(7), len(fresh))
    moved = {
        name: value + 0.1 * jax.random.normal(key, value.shape)
        for (name, value), key in zip(fresh.items(), keys, strict=True)
    }
    return engine, load(engine, base[1]), fresh, moved


def test_fresh_adapters_and_no_adapters_are_the_base_bit_for_bit(adapted, batch):
    engine, frozen, fresh, moved = adapted
    plain = logprobs(engine.policy.base, frozen, batch)
    np.testing.assert_array_equal(logprobs(engine.policy, frozen | fresh, batch), plain)
    reference = engine.reference_weights({}, frozen)
    assert all(reference[name] is frozen[name] for name in frozen), (
        "the reference is the same weights, not a copy"
    )
    done = batch.completions
    np.testing.assert_allclose(
        engine.reference_logprobs(reference, batch.prompts, done.tokens, done.mask, None),
        plain,
        atol=TOL_SIMPLE,
    )
    assert np.abs(logprobs(engine.policy, frozen | moved, batch) - plain).max() > 100 * TOL_COMPLEX


def test_updates_change_the_adapters_alone(adapted, batch):
    engine, frozen, fresh, _ = adapted
    assert {name.rpartition(".")[0] for name in fresh} == {
        f"layers.{part}"
        for part in (
            "attention.q",
            "attention.k",
            "attention.v",
            "attention.o",
            "mlp.gate",
            "mlp.up",
            "mlp.down",
        )
    }
    state = engine.moments.init({name: value.copy() for name, value in fresh.items()})
    totals = engine.gradient(answer_loss)(None, state.params, frozen, batch, T)
    state, metrics = engine.moments.update(state, totals, 1)
    assert set(state.params) == set(fresh)
    assert all(
        np.any(np.asarray(state.params[name]) != np.asarray(fresh[name]))
        for name in fresh
        if name.endswith(ADAPTER[1])
    )
    assert metrics["grad_norm"] > 0


def test_adapters_split_over_a_mesh_have_the_gradient_of_one_device(adapted, batch):
    engine, frozen, _, moved = adapted
    one = {
        name: jax.device_put(np.asarray(value), jax.devices()[0])
        for name, value in (frozen | moved).items()
    }
    whole = {name: one.pop(name) for name in moved}
    placed = {
        name: jax.device_put(value, engine.state_shardings.params[name])
        for name, value in moved.items()
    }
    found = engine.gradient(answer_loss)(None, placed, frozen, batch, T).gradient
    alone = jax.jit(functools.partial(_gradient, engine.policy))(whole, one, batch)
    for name in moved:
        error = np.linalg.norm(np.asarray(found[name]) - np.asarray(alone[name])) / np.linalg.norm(
            np.asarray(alone[name])
        )
        assert error <= TOL_SIMPLE, (name, error)


def _gradient(policy, trained, frozen, batch):
    zeros, add = make_gradient(policy, answer_loss, temperature=1.0, head_chunk=64)
    return add(zeros(trained, frozen, batch), trained, frozen, batch).gradient


def test_rollout_uses_the_adapters(adapted, batch):
    engine, frozen, _, moved = adapted
    sampler = jax.jit(make_sampler(engine.policy, group=2, max_tokens=6, end_tokens=[EOS]))
    samples = sampler(
        frozen | moved, batch.prompts, jax.random.key(1), np.arange(B, dtype=np.int32)
    )
    scores = jax.jit(lambda p, t, m: score_tokens(engine.policy.bind(p), batch.prompts, t, m))(
        frozen | moved, samples.tokens, samples.mask
    )
    np.testing.assert_allclose(scores.logprobs, samples.logprobs, atol=TOL_COMPLEX)


@pytest.fixture(scope="module")
def checkpoint(adapted, tmp_path_factory):
    """A start at a checkpoint that holds the adapters alone."""
    engine, _, _, moved = adapted
    folder = tmp_path_factory.mktemp("lora") / "checkpoints"
    with Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(state_at(3, moved, engine.optimizer), 24, {})
    base = engine.config.policy.path
    return Start(base, str(folder), 3, Start(base), LORA)


def test_merged_weights_speak_like_the_adapters(adapted, checkpoint, batch):
    engine, frozen, _, moved = adapted
    policy = engine.policy.base
    merged = checkpoint.load(
        policy, engine.placement.weights(policy.specs, TRAIN_RULES), np.float32
    )
    np.testing.assert_allclose(
        logprobs(policy, merged, batch),
        logprobs(engine.policy, frozen | moved, batch),
        atol=TOL_SIMPLE,
    )
    np.testing.assert_array_equal(
        merged["vision.merge_in.kernel"], frozen["vision.merge_in.kernel"]
    )


def test_peft_loads_the_adapter(base, adapted, checkpoint, tmp_path):
    """transformers with peft's adapter, and on the merged export, against the adapters here."""
    oracle, directory = base
    engine, frozen, _, moved = adapted
    out = export_adapter(
        checkpoint.adapters(engine.placement.mesh),
        LORA,
        directory.name,
        tmp_path / "adapter",
        {"README.md": "card\n"},
    )
    prompt = make_prompt(np.random.default_rng(3), [(56, 84)], [3, 5])
    completion = np.array([5, 6, 7, 8], np.int32)

    fresh = Qwen2_5_VLForConditionalGeneration.from_pretrained(directory).eval()
    with_adapter = PeftModel.from_pretrained(fresh, out).eval()
    loaded = [
        name
        for name, weight in with_adapter.named_parameters()
        if "lora_B" in name and weight.any()
    ]
    assert len(loaded) == 7 * 3, (
        "one adapter for every linear map of the three text layers, none in the tower"
    )
    theirs = torch.tensor(oracle_logits(with_adapter.base_model.model, prompt, completion))
    assert not np.allclose(
        theirs, oracle_logits(oracle, prompt, completion), atol=100 * TOL_COMPLEX
    )

    merged = checkpoint.load(
        engine.policy.base,
        engine.placement.weights(engine.policy.base.specs, TRAIN_RULES),
        np.float32,
    )
    export = export_policy(merged, engine.policy.base, directory, tmp_path / "merged", {})
    reopened = Qwen2_5_VLForConditionalGeneration.from_pretrained(export).eval()
    np.testing.assert_allclose(
        oracle_logits(reopened, prompt, completion), theirs, atol=TOL_COMPLEX
    )

    theirs[:, list(engine.policy.arch.never_sampled)] = -torch.inf
    expected = theirs.log_softmax(-1)[range(4), completion]
    answers = AnswerBatch(
        jnp.asarray(completion[None, None]), jnp.ones((1, 1, 4), bool), jnp.ones((1, 1))
    )
    ours = logprobs(engine.policy, frozen | moved, TrainBatch(batch_of([prompt], 32), answers))
    np.testing.assert_allclose(ours[0, 0], expected, atol=TOL_COMPLEX)


def test_adapters_need_a_frozen_tower():
    with pytest.raises(UserError, match=r"policy\.tower: expected frozen"):
        PolicyConfig(lora=LORA)

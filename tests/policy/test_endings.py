"""What the sampler may draw, and what ends an answer."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from transformers_oracle import batch_of, make_oracle, make_prompt

from segr1_jax.errors import UserError
from segr1_jax.hf.load_weights import read_arch
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.policy.logprobs import score_tokens
from segr1_jax.policy.params import Policy
from segr1_jax.policy.qwen2_5_vl.arch import arch_from_config
from segr1_jax.prompt.tokenizer import END_OF_TURN, PAD, Tokenizer
from segr1_jax.rollout.sampler import make_sampler

KNOWN = 250  # of 300 ids
ENDS = (7, 40)


@pytest.fixture(scope="module")
def drawn():
    """(policy, weights, prompts, samples) of a vocabulary with ids that no tokenizer has."""
    arch = arch_from_config(make_oracle().config.to_dict()).knowing(range(KNOWN))
    policy = Policy(arch)
    weights = policy.init(0)
    # Likely ids, were they allowed.
    weights["embed"] = weights["embed"].at[KNOWN:].multiply(40.0)
    rng = np.random.default_rng(0)
    prompts = batch_of([make_prompt(rng, [(56, 56)], [4, 6 + row]) for row in range(4)], 32)
    sampler = jax.jit(make_sampler(policy, group=16, max_tokens=32, end_tokens=ENDS))
    samples = sampler(weights, prompts, jax.random.key(0), np.arange(4, dtype=np.int32))
    return policy, weights, prompts, jax.device_get(samples)


def test_ids_that_the_tokenizer_lacks_are_never_sampled(drawn):
    policy, weights, prompts, samples = drawn
    assert samples.tokens.max() < KNOWN
    assert len(policy.arch.never_sampled) == 300 - KNOWN
    open_policy = dataclasses.replace(policy, arch=policy.arch.knowing(range(300)))
    sampler = jax.jit(make_sampler(open_policy, group=16, max_tokens=32, end_tokens=ENDS))
    other = sampler(weights, prompts, jax.random.key(0), np.arange(4, dtype=np.int32))
    assert other.tokens.max() >= KNOWN, "the test would see nothing"


@pytest.mark.parametrize("chunk", [5, 64])
def test_the_scorer_has_the_distribution_of_the_sampler(drawn, chunk):
    policy, weights, prompts, samples = drawn
    score = jax.jit(
        lambda w, t, m: score_tokens(policy.bind(w), prompts, t, m, chunk=chunk).logprobs
    )
    found = score(weights, samples.tokens, samples.mask)
    np.testing.assert_allclose(found, samples.logprobs, atol=1e-4)
    gradient = jax.jit(jax.grad(lambda w: score(w, samples.tokens, samples.mask).sum()))(weights)
    # The head is the embedding: ids that prompts hold have a gradient from there.
    in_no_prompt = np.setdiff1d(np.arange(KNOWN, 300), prompts.tokens)
    assert len(in_no_prompt) > 10
    assert not np.asarray(gradient["embed"])[in_no_prompt].any()


def test_each_end_ends_an_answer(drawn):
    tokens, mask, finished = drawn[3].tokens, drawn[3].mask, drawn[3].finished
    seen = set()
    for answer, real, done in zip(
        tokens.reshape(-1, 32), mask.reshape(-1, 32), finished.reshape(-1), strict=True
    ):
        ends = np.flatnonzero(np.isin(answer, ENDS) & real)
        assert real.sum() == (ends[0] + 1 if done else 32)
        assert len(ends) == int(done)
        seen |= {int(answer[end]) for end in ends}
    assert seen == set(ENDS)


@pytest.fixture
def directory(tmp_path):
    return make_tiny_policy(tmp_path / "tiny")


def ends_of(directory, content) -> tuple[int, ...]:
    (directory / "generation_config.json").write_text(json.dumps(content))
    return Tokenizer(directory).end_ids


def test_ends_are_those_of_the_generation_config(directory):
    tokenizer = Tokenizer(directory)
    end, pad = (int(tokenizer.encode(token)[0]) for token in (END_OF_TURN, PAD))
    assert tokenizer.end_ids == (end,)
    assert ends_of(directory, {"eos_token_id": [end, pad]}) == (end, pad)
    assert ends_of(directory, {"eos_token_id": pad}) == (end, pad)
    assert ends_of(directory, {}) == (end,)
    both = Tokenizer(shutil.copytree(directory, directory.parent / "both"))
    (directory / "generation_config.json").unlink()
    assert Tokenizer(directory).end_ids == (end,)
    assert both.decode(np.array([5, end])) == both.decode(np.array([5]))


@pytest.mark.parametrize("content", [{"eos_token_id": 10**6}, {"eos_token_id": "x"}, [1]])
def test_ends_must_be_tokens(directory, content):
    with pytest.raises(UserError, match=r"generation_config\.json"):
        ends_of(directory, content)


def test_the_text_of_an_answer_has_no_end(directory):
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    tokenizer = Tokenizer(directory)
    words = tokenizer.encode("a medium object")
    assert tokenizer.decode(np.append(words, 6)) == "a medium object"


def test_a_policy_directory_knows_its_ids(directory):
    arch = read_arch(directory)
    assert Tokenizer(directory).ids == frozenset(range(arch.text.vocab))
    wider = dataclasses.replace(
        arch, text=dataclasses.replace(arch.text, vocab=arch.text.vocab + 3)
    )
    banned = wider.knowing(Tokenizer(directory).ids).never_sampled
    assert banned[-3:] == tuple(range(arch.text.vocab, arch.text.vocab + 3))
    assert banned[:-3] == arch.never_sampled

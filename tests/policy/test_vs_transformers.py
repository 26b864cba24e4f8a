"""The policy against transformers.

Noise images, non-square grids, two images, unequal prompts, padding on both sides, text only.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tolerances import TOL_COMPLEX, TOL_SIMPLE
from transformers_oracle import (
    EOS,
    batch_of,
    gradient_errors,
    load_pair,
    make_oracle,
    make_prompt,
    oracle_gradients,
    oracle_logits,
    save_oracle,
    shift_right,
)

from segr1_jax.policy.logprobs import score_tokens
from segr1_jax.rollout.sampler import make_sampler

G, T = 3, 5


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def pair(request, tmp_path_factory):
    """(oracle, policy, params) with the same weights."""
    oracle = make_oracle(tied=request.param)
    return oracle, *load_pair(save_oracle(oracle, tmp_path_factory.mktemp("oracle")))


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    return [
        make_prompt(rng, [(84, 140)], [4, 6]),
        make_prompt(rng, [(56, 112), (168, 28)], [2, 3, 9]),
        make_prompt(rng, [], [11]),
    ]


@pytest.fixture(scope="module")
def completions():
    return jnp.asarray(np.random.default_rng(1).integers(0, 280, (3, G, T)), jnp.int32)


def oracle_logprobs(oracle, policy, prompt, completion):
    logits = torch.tensor(oracle_logits(oracle, prompt, completion))
    logits[:, list(policy.arch.never_sampled)] = -torch.inf
    return logits.log_softmax(-1).numpy()


def test_logprobs_equal_the_concatenated_sequences(pair, prompts, completions):
    oracle, policy, params = pair
    score = jax.jit(lambda p, b, t, m: score_tokens(policy.bind(p), b, t, m, chunk=2))
    batch = batch_of(prompts, capacity=48)
    mask = jnp.ones(completions.shape, bool)
    ours = score(params, batch, completions, mask)
    shifted = score(params, shift_right(batch, 3), completions, mask)
    np.testing.assert_allclose(shifted.logprobs, ours.logprobs, atol=TOL_SIMPLE)
    for b, prompt in enumerate(prompts):
        for g in range(G):
            theirs = oracle_logprobs(oracle, policy, prompt, np.asarray(completions[b, g]))
            np.testing.assert_allclose(
                ours.logprobs[b, g], theirs[np.arange(T), completions[b, g]], atol=TOL_COMPLEX
            )
            finite = np.where(np.isfinite(theirs), theirs, 0)
            np.testing.assert_allclose(
                ours.entropy[b, g], -(np.exp(theirs) * finite).sum(-1), atol=TOL_COMPLEX
            )


def test_padding_of_completions_changes_nothing(pair, prompts, completions):
    _, policy, params = pair
    batch = batch_of(prompts, capacity=48)
    mask = jnp.ones(completions.shape, bool)
    mask = mask.at[:, :, 3:].set(False)
    garbage = jnp.where(mask, completions, 7)
    score = jax.jit(lambda p, b, t, m: score_tokens(policy.bind(p), b, t, m))
    whole, cut = (
        score(params, batch, completions, jnp.ones_like(mask)),
        score(params, batch, garbage, mask),
    )
    np.testing.assert_allclose(cut.logprobs[:, :, :3], whole.logprobs[:, :, :3], atol=TOL_SIMPLE)
    assert not np.any(cut.logprobs[:, :, 3:])


def test_greedy_decoding_takes_the_likeliest_token(pair, prompts):
    oracle, policy, params = pair
    steps = 12
    sampler = jax.jit(
        make_sampler(policy, group=1, max_tokens=steps, end_tokens=[EOS], greedy=True)
    )
    ours = sampler(
        params, batch_of(prompts, capacity=48), jax.random.key(0), jnp.arange(len(prompts))
    )
    for row, prompt in enumerate(prompts):
        sequence = np.zeros(0, np.int64)
        while len(sequence) < steps and EOS not in sequence:
            logits = oracle_logits(oracle, prompt, np.append(sequence, 0))[-1]
            logits[list(policy.arch.never_sampled)] = -np.inf
            sequence = np.append(sequence, logits.argmax())
        kept = np.asarray(ours.tokens)[row, 0][np.asarray(ours.mask)[row, 0]]
        np.testing.assert_array_equal(kept, sequence)


def test_sampler_logprobs_are_the_scorers(pair, prompts):
    _, policy, params = pair
    sampler = jax.jit(
        make_sampler(policy, group=G, max_tokens=9, end_tokens=[EOS], temperature=0.8)
    )
    batch, ids = batch_of(prompts, capacity=48), jnp.array([5, 0, 11])
    samples = sampler(params, batch, jax.random.key(3), ids)
    score = jax.jit(lambda p, b, t, m: score_tokens(policy.bind(p), b, t, m, temperature=0.8))
    scores = score(params, batch, samples.tokens, samples.mask)
    np.testing.assert_allclose(scores.logprobs, samples.logprobs, atol=TOL_COMPLEX)
    order = np.array([2, 0, 1])
    again = sampler(params, jax.tree.map(lambda x: x[order], batch), jax.random.key(3), ids[order])
    np.testing.assert_array_equal(again.tokens, np.asarray(samples.tokens)[order])


def test_gradients_equal_torch_autograd(pair, prompts, completions):
    """Compare the gradient of every weight.

    It is that of the mean log-probability of one completion per prompt.
    """
    oracle, policy, params = pair
    batch, tokens = batch_of(prompts, capacity=48), completions[:, :1]

    def total(p):
        return score_tokens(
            policy.bind(p), batch, tokens, jnp.ones(tokens.shape, bool)
        ).logprobs.mean()

    ours = jax.jit(jax.grad(total))(params)
    errors = gradient_errors(
        ours, oracle_gradients(oracle, policy, prompts, np.asarray(tokens[:, 0]))
    )
    print("largest relative errors", list(errors.items())[:3])
    assert max(errors.values()) <= TOL_COMPLEX

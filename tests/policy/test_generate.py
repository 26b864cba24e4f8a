"""Decoding token by token equals the full forward pass.

Greedy sampling equals transformers' own `generate`.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tolerances import TOL_SIMPLE
from transformers_oracle import (
    EOS,
    batch_of,
    draw_weights,
    load_pair,
    make_oracle,
    make_prompt,
    oracle_inputs,
    oracle_logits,
    save_oracle,
    shift_right,
)

from segr1_jax.policy.chunked_head import tempered_logits
from segr1_jax.policy.decode_weights import DecodeLayout, decode_weights
from segr1_jax.policy.decoding import decode_token, empty_cache, prefix_layout
from segr1_jax.policy.qwen2_5_vl.text import suffix_rotary
from segr1_jax.rollout.sampler import make_sampler

STEPS = 64
LAYOUTS = [DecodeLayout(joined, unrolled) for joined in (False, True) for unrolled in (False, True)]
SIZES = [
    [(84, 140)],
    [(56, 112), (168, 28)],
    [],
    [(28, 56)],
    [(112, 56)],
    [(140, 84), (56, 56)],
    [(28, 196)],
]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def make_pair(request, tmp_path_factory):
    """A function from the gain of the maps to (oracle, policy, params) with the same weights."""

    def make(gain: float):
        oracle = make_oracle(tied=request.param)
        draw_weights(oracle, gain)
        return oracle, *load_pair(save_oracle(oracle, tmp_path_factory.mktemp("oracle")))

    return make


@pytest.fixture(scope="module")
def prompts():
    """20 unequal prompts: one image, two images of two sizes, or text alone."""
    rng = np.random.default_rng(0)
    return [
        make_prompt(rng, sizes, list(rng.integers(1, 10, len(sizes) + 1)))
        for sizes in (3 * SIZES)[:20]
    ]


def decoded_states(policy, params, batch, tokens_BGT, layout):
    """Return the states that predict each token, from a prefill and a decoding step per token."""
    B, G, T = tokens_BGT.shape
    arch, weights = policy.arch.text, decode_weights(policy, params, layout)
    first_BD, cache = policy.bind(params).prefill(batch)
    prefix = prefix_layout(cache.k, cache.v, cache.mask, layout)

    def one(own, t):
        rotary = jax.tree.map(
            lambda x: x[:, :, 0], suffix_rotary(arch, batch.next_position, t[None])
        )
        x_BGD = weights["embed"][tokens_BGT[:, :, t]]
        states_BGD, own = decode_token(weights, arch, layout, x_BGD, rotary, t, prefix, own)
        return own, states_BGD

    own = empty_cache(arch, layout, B, G, T, policy.dtype)
    _, later_TBGD = jax.lax.scan(one, own, jnp.arange(T - 1))
    first_BG1D = jnp.broadcast_to(first_BD[:, None, None], (B, G, 1, first_BD.shape[-1]))
    return jnp.concatenate([first_BG1D, jnp.moveaxis(later_TBGD, 0, 2)], axis=2)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_prefill_and_decode_equal_the_full_forward(make_pair, prompts, layout):
    """Given tokens, with padding on the left and on the right and two completions per prompt."""
    _, policy, params = make_pair(gain=1.0)
    chosen = prompts[:3]
    batch = shift_right(
        batch_of(chosen, capacity=max(len(prompt.token_ids) for prompt in chosen) + 5), 3
    )
    tokens = jnp.asarray(np.random.default_rng(2).integers(0, 280, (3, 2, 12)), jnp.int32)

    @jax.jit
    def both(p):
        model = policy.bind(p)
        states = (
            decoded_states(policy, p, batch, tokens, layout),
            model.predict_states(batch, tokens, jnp.ones(tokens.shape, bool)),
        )
        return [
            (each, jax.nn.log_softmax(tempered_logits(each, model.head_kernel(), (), 1.0)))
            for each in states
        ]

    decoded, full = both(params)
    for name, ours, theirs in zip(("states", "log-probabilities"), decoded, full, strict=True):
        print(
            name,
            "differ by at most",
            float(jnp.abs(ours - theirs).max()),
            "of",
            float(jnp.abs(theirs).max()),
        )
        np.testing.assert_allclose(ours, theirs, atol=TOL_SIMPLE)


def generate(oracle, policy, prompt) -> np.ndarray:
    """Greedy tokens by transformers, with the ids that our sampler never takes suppressed.

    The 3-D positions are asserted.
    """
    inputs = oracle_inputs(oracle, prompt, np.zeros(0, np.int32))
    banned = list(policy.arch.never_sampled)
    with torch.no_grad():
        out = oracle.generate(
            **inputs,
            max_new_tokens=STEPS,
            do_sample=False,
            suppress_tokens=banned,
            eos_token_id=EOS,
            pad_token_id=EOS,
        )
    assert oracle.model.rope_deltas.item() == prompt.next_position - len(prompt.token_ids)
    return out[0, len(prompt.token_ids) :].numpy()


def gap(oracle, policy, prompt, tokens) -> float:
    """How far the oracle's best logit stands above its second best after these tokens."""
    logits = oracle_logits(oracle, prompt, np.append(tokens, 0))[-1]
    logits[list(policy.arch.never_sampled)] = -np.inf
    second, first = np.sort(logits)[-2:]
    return float(first - second)


@pytest.mark.slow
def test_greedy_answers_equal_generate(make_pair, prompts):
    oracle, policy, params = make_pair(
        gain=2.0
    )  # reacts so much to the text that greedy answers do not run in circles
    sampler = jax.jit(
        make_sampler(policy, group=1, max_tokens=STEPS, end_tokens=[EOS], greedy=True)
    )
    capacity = max(len(prompt.token_ids) for prompt in prompts)
    samples = jax.tree.map(
        np.asarray,
        sampler(params, batch_of(prompts, capacity), jax.random.key(0), jnp.arange(len(prompts))),
    )
    theirs = [generate(oracle, policy, prompt) for prompt in prompts]
    for row, (prompt, expected) in enumerate(zip(prompts, theirs, strict=True)):
        ours = samples.tokens[row, 0][samples.mask[row, 0]]
        if not np.array_equal(ours, expected):
            same = next(
                i for i, (a, b) in enumerate(itertools.zip_longest(ours, expected)) if a != b
            )
            margin = gap(oracle, policy, prompt, expected[:same])
            pytest.fail(
                f"prompt {row}: from token {same} on {ours[same:]}, not {expected[same:]}; "
                f"the oracle's best token leads by {margin:.1e}"
            )
    lengths, variety = [len(tokens) for tokens in theirs], [len(set(tokens)) for tokens in theirs]
    print("lengths", lengths, "different tokens", variety)
    assert len({tuple(tokens) for tokens in theirs}) == len(prompts), "the prompts hardly matter"
    assert sum(length == STEPS for length in lengths) >= len(prompts) / 2
    assert np.median(variety) > STEPS / 2, "the answers repeat themselves"

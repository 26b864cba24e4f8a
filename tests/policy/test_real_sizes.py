"""The policy against transformers at the head counts of the real 3B and 7B.

Every layer's states, logits and gradients are compared, and bfloat16.

Widths, heads, rotary sections and windows are the published ones. Vocabulary, depth and MLP widths
are smaller, to keep the tests to a minute.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from recorded import oracle_states, recorded_states
from tolerances import MAX_BF16_DISTANCE_RATIO, TOL_COMPLEX
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers_oracle import (
    VISION,
    batch_of,
    build,
    draw_weights,
    gradient_errors,
    load_pair,
    make_prompt,
    oracle_gradients,
    oracle_inputs,
    oracle_logits,
    save_oracle,
    shift_right,
)

from segr1_jax.policy.logprobs import score_tokens
from segr1_jax.policy.params import Policy

ARCHITECTURES = Path(__file__).parents[2] / "configs" / "arch"
TEXT_WIDTHS = ("hidden_size", "num_attention_heads", "num_key_value_heads", "rope_scaling")
TOWER_WIDTHS = ("hidden_size", "num_heads", "window_size")
CUT_TEXT = {"intermediate_size": 512, "num_hidden_layers": 2, "vocab_size": 4096}
CUT_TOWER = {"depth": 4, "intermediate_size": 256, "fullatt_block_indexes": [2]}
REAL_VISION = dataclasses.replace(VISION, window=112)
G, T = 2, 5


@pytest.fixture(scope="module", params=["3b", "7b"])
def size(request):
    return request.param


@pytest.fixture(scope="module")
def saved(size, tmp_path_factory):
    published = json.loads((ARCHITECTURES / f"qwen2.5-vl-{size}.json").read_text())
    text = {name: published[name] for name in TEXT_WIDTHS}
    tower = {name: published["vision_config"][name] for name in TOWER_WIDTHS}
    oracle = build(text | CUT_TEXT, tower | CUT_TOWER, tied=published["tie_word_embeddings"])
    draw_weights(oracle)
    directory = save_oracle(oracle, tmp_path_factory.mktemp("oracle"))
    yield oracle, directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def pair(saved):
    """(oracle, policy, params) with the same weights."""
    oracle, directory = saved
    policy, params = load_pair(directory)
    text = policy.arch.text
    assert (text.head_dim, text.mrope_section, text.rope_theta) == (128, (16, 24, 24), 1e6)
    return oracle, policy, params


@pytest.fixture(scope="module")
def prompts():
    """Windows of 4 x 4 image tokens are partly filled at the right and lower edges of images."""
    rng = np.random.default_rng(0)
    return [
        make_prompt(rng, [(140, 196)], [4, 6], REAL_VISION),
        make_prompt(rng, [(84, 168), (196, 56)], [2, 3, 9], REAL_VISION),
        make_prompt(rng, [], [11], REAL_VISION),
    ]


@pytest.fixture(scope="module")
def batch(prompts):
    longest = max(len(prompt.token_ids) for prompt in prompts)
    return shift_right(batch_of(prompts, capacity=longest + 5), 3)


@pytest.fixture(scope="module")
def completions():
    return np.random.default_rng(1).integers(0, 280, (3, G, T)).astype(np.int32)


def test_every_layer_and_the_logits(pair, prompts, batch, completions):
    oracle, policy, params = pair
    ours = recorded_states(policy, params, batch, completions)
    differences = {"tower": [], "text": [], "logits": []}
    for b, prompt in enumerate(prompts):
        patches_N, tokens_P = (
            np.asarray(batch.images.mask[b]).reshape(-1),
            np.asarray(batch.mask[b]),
        )
        for g in range(G):
            theirs = oracle_states(oracle, prompt, completions[b, g])
            text_LSD = np.concatenate(
                [ours.prefix_LBPD[:, b, tokens_P], ours.suffix_LBGTD[:, b, g]], axis=1
            )
            pairs = {
                "tower": (ours.tower_LBND[:, b, patches_N], theirs.tower_LnD),
                "text": (text_LSD, theirs.text_LSD),
                "logits": (ours.logits_BGTV[b, g], theirs.logits_TV),
            }
            for part, (our, their) in pairs.items():
                assert our.shape == their.shape
                differences[part].append(np.abs(our - their).max(initial=0.0))
    worst = {part: float(np.max(each)) for part, each in differences.items()}
    print("largest differences", worst)
    assert np.max(list(worst.values())) <= TOL_COMPLEX  # np.max: a NaN is no pass


def test_the_inputs_discriminate(pair, prompts, completions, monkeypatch):
    """Faults move the oracle far beyond the tolerance.

    They are: two neighboring patches exchanged, one-dimensional positions, no full attention.
    """
    oracle, completion = pair[0], completions[0, 0]
    right = oracle_logits(oracle, prompts[0], completion)
    inputs = oracle_inputs(oracle, prompts[0], completion)

    def moved(**changes):
        with torch.no_grad():
            logits = oracle(**inputs | changes).logits[0].numpy()
        return float(np.abs(logits[len(prompts[0].token_ids) - 1 : -1] - right).max())

    pixels = inputs["pixel_values"]
    moves = {
        "patches": moved(pixel_values=pixels[[1, 0, *range(2, len(pixels))]]),
        "positions": moved(mm_token_type_ids=None),
    }
    monkeypatch.setattr(oracle.model.visual, "fullatt_block_indexes", [])
    moves["windows"] = moved()
    print("logits move by", moves)
    assert min(moves.values()) > 100 * TOL_COMPLEX


@pytest.mark.slow
def test_gradients(pair, prompts, batch, completions):
    oracle, policy, params = pair
    tokens = jnp.asarray(completions[:, :1])

    def total(p):
        return score_tokens(
            policy.bind(p), batch, tokens, jnp.ones(tokens.shape, bool)
        ).logprobs.mean()

    ours = jax.jit(jax.grad(total))(params)
    errors = gradient_errors(ours, oracle_gradients(oracle, policy, prompts, completions[:, 0]))
    print("largest relative errors", list(errors.items())[:3])
    assert max(errors.values()) <= TOL_COMPLEX


@pytest.mark.slow
def test_bfloat16_is_no_farther_from_the_truth_than_transformers(
    saved, pair, prompts, batch, completions
):
    """RMS distance of bfloat16 logits to the float32 logits of the same weights."""
    oracle, policy, params = pair
    theirs = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        saved[1], dtype=torch.bfloat16
    ).eval()
    assert theirs.model.language_model.rotary_emb.inv_freq.dtype == torch.float32
    ours = recorded_states(
        Policy(policy.arch, dtype=jnp.bfloat16), params, batch, completions
    ).logits_BGTV
    errors = {"ours": [], "transformers": []}
    for b, prompt in enumerate(prompts):
        for g in range(G):
            truth = oracle_logits(oracle, prompt, completions[b, g])
            errors["ours"].append(ours[b, g] - truth)
            errors["transformers"].append(oracle_logits(theirs, prompt, completions[b, g]) - truth)
    rms = {who: float(np.sqrt(np.mean(np.square(error)))) for who, error in errors.items()}
    each = {
        who: [round(float(np.sqrt(np.mean(np.square(one)))), 4) for one in error]
        for who, error in errors.items()
    }
    print(
        f"RMS distance to float32: {rms}, ratio {rms['ours'] / rms['transformers']:.3f}; "
        f"each {each}"
    )
    assert rms["ours"] <= MAX_BF16_DISTANCE_RATIO * rms["transformers"]

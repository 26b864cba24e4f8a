"""Prepared weights of decoding: a family with query and key norms and without biases, adapters.

The oracle computes the same layer from the unprepared weights, key by key, with numpy.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_arch import CONFIG
from tolerances import TOL_COMPLEX

from segr1_jax.policy.config import LoraConfig
from segr1_jax.policy.decode_weights import DecodeLayout, decode_specs, decode_weights
from segr1_jax.policy.decoding import decode_token, empty_cache, prefix_layout
from segr1_jax.policy.layers import Rotary
from segr1_jax.policy.params import Policy, WeightSpec
from segr1_jax.policy.qwen2_5_vl.arch import arch_from_config

ARCH = arch_from_config(CONFIG)
TEXT = ARCH.text
B, G, P, T = 2, 3, 4, 3


class Normed(Policy):
    """A family whose layers norm queries and keys and have no biases."""

    @property
    def specs(self) -> dict[str, WeightSpec]:
        declared = {name: spec for name, spec in super().specs.items() if "bias" not in name}
        norm = WeightSpec((TEXT.layers, TEXT.head_dim), (None, None))
        return declared | {f"layers.attention.{x}_norm.scale": norm for x in ("q", "k")}


def weights_of(policy: Policy) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(0.2 if "scale" not in name else 1.0, 0.2, spec.shape).astype(np.float32)
        for name, spec in policy.specs.items()
        if not name.startswith("vision.")
    }


def normed(x, scale):
    return scale * x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + TEXT.norm_eps)


def oracle(w, x_BGD, prefix, own):
    """Compute one token; `prefix` and `own` have a list of K and V by layer, `own` grows."""
    heads, shared = TEXT.heads, TEXT.heads // TEXT.kv_heads
    for layer in range(TEXT.layers):
        at = {name[7:]: value[layer] for name, value in w.items() if name.startswith("layers.")}
        h = normed(x_BGD, at["norm1.scale"])
        q, k, v = (
            (h @ at[f"attention.{name}.kernel"]).reshape(B, G, -1, TEXT.head_dim) for name in "qkv"
        )
        q = normed(q, at["attention.q_norm.scale"])
        own[layer].append((normed(k, at["attention.k_norm.scale"]), v))
        out = np.zeros_like(q)
        for b, g, head in np.ndindex(B, G, heads):
            kept = [(k[b, g, head // shared], v[b, g, head // shared]) for k, v in own[layer]]
            seen = [(k[b, head // shared], v[b, head // shared]) for k, v in prefix[layer]] + kept
            scores = np.array([q[b, g, head] @ key for key, _ in seen]) * TEXT.head_dim**-0.5
            shares = np.exp(scores - scores.max())
            out[b, g, head] = shares @ np.stack([value for _, value in seen]) / shares.sum()
        x_BGD = x_BGD + out.reshape(B, G, -1) @ at["attention.o.kernel"]
        h = normed(x_BGD, at["norm2.scale"])
        gate, up = h @ at["mlp.gate.kernel"], h @ at["mlp.up.kernel"]
        x_BGD = x_BGD + (gate / (1 + np.exp(-gate)) * up) @ at["mlp.down.kernel"]
    return normed(x_BGD, w["norm.scale"])


@pytest.mark.parametrize("unrolled", [False, True], ids=["scanned", "unrolled"])
@pytest.mark.parametrize("joined", [False, True], ids=["apart", "joined"])
def test_norms_of_queries_and_keys_and_no_biases(joined, unrolled):
    policy, layout = Normed(ARCH), DecodeLayout(joined, unrolled)
    w = weights_of(policy)
    prepared = decode_weights(policy, {name: jnp.asarray(x) for name, x in w.items()}, layout)
    specs = decode_specs(policy, layout)
    assert {name: value.shape for name, value in prepared.items()} == {
        name: spec.shape for name, spec in specs.items()
    }
    rng = np.random.default_rng(1)
    k, v = (rng.normal(size=(TEXT.layers, B, P, TEXT.kv_heads, TEXT.head_dim)) for _ in range(2))
    prefix = prefix_layout(jnp.float32(k), jnp.float32(v), jnp.ones((B, P), bool), layout)
    shared = [[(k[layer, :, p], v[layer, :, p]) for p in range(P)] for layer in range(TEXT.layers)]
    own, kept = empty_cache(TEXT, layout, B, G, T, jnp.float32), [[] for _ in range(TEXT.layers)]
    still = Rotary(jnp.ones((B, 1, TEXT.head_dim)), jnp.zeros((B, 1, TEXT.head_dim)))
    for step in range(T):
        x_BGD = rng.normal(size=(B, G, TEXT.hidden)).astype(np.float32)
        ours, own = decode_token(
            prepared, TEXT, layout, jnp.asarray(x_BGD), still, jnp.int32(step), prefix, own
        )
        np.testing.assert_allclose(ours, oracle(w, x_BGD, shared, kept), rtol=0, atol=TOL_COMPLEX)


def test_adapters_are_merged():
    policy = Policy(ARCH, lora=LoraConfig(rank=2, alpha=8.0))
    w = weights_of(policy)
    layout = DecodeLayout()
    prepared = decode_weights(policy, {name: jnp.asarray(x) for name, x in w.items()}, layout)
    assert not [name for name in prepared if "lora" in name]
    q = w["layers.attention.q.kernel"] + 4.0 * (
        w["layers.attention.q.lora_a"] @ w["layers.attention.q.lora_b"]
    )
    found = prepared["layers.attention.qkv.kernel"][..., : q.shape[-1]]
    np.testing.assert_allclose(found, q, rtol=TOL_COMPLEX)


def test_bfloat16_is_cast_once():
    policy = Policy(ARCH, dtype=jnp.bfloat16)
    w = {name: jnp.asarray(x) for name, x in weights_of(policy).items()}
    prepared = decode_weights(policy, w, DecodeLayout())
    assert {value.dtype for value in jax.tree.leaves(prepared)} == {jnp.dtype(jnp.bfloat16)}

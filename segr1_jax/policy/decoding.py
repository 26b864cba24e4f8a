"""One decoding step of a language model with a shared prefix, on prepared weights.

The G completions of a prompt share the keys and values of its prefix. Attention is computed in two
parts, over the prefix and over the completion's own tokens, each with its own softmax; the parts are
merged by their maxima and sums, which gives the softmax over all keys. So no array of joined scores
exists. Keys and values of a layer lie as the products read them: [B, K, P, C] and [B, G, K, T, C],
batch axes first.

The token itself is written to the cache before attention reads it. The program then reads what it
has written, and updates the cache in place.

Shape legend: B prompts; P prefix tokens; G completions per prompt; T capacity of a cache; D hidden;
H query heads; K key/value heads; R = H / K query heads per key head; C head size; L layers; V
vocabulary.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from segr1_jax.policy.attention import MASKED
from segr1_jax.policy.batch_rows import split_rows
from segr1_jax.policy.decode_weights import JOINED, LAYERS, DecodeLayout
from segr1_jax.policy.layers import Rotary, rms_norm
from segr1_jax.policy.params import Params
from segr1_jax.policy.qwen2_5_vl.arch import TextArch

# A stack of all layers [L, ...], or one array for each layer.
Layers = Array | tuple[Array, ...]


class Prefix(NamedTuple):
    """Keys and values of the prefixes, [B, K, P, C] in each layer, and the mask of real tokens."""

    k: Layers
    v: Layers
    mask: Bool[Array, "B P"]


class OwnCache(NamedTuple):
    """Keys and values of the completions, [B, G, K, T, C] in each layer; slot t holds token t."""

    k: Layers
    v: Layers


class _Part(NamedTuple):
    """Attention over a part of the keys: values summed with weights exp(score - top)."""

    top: Float[Array, "B G K R 1"]
    total: Float[Array, "B G K R 1"]
    values: Float[Array, "B G K R C"]


def decode_token(
    weights: Params,
    arch: TextArch,
    layout: DecodeLayout,
    x_BGD: Float[Array, "B G D"],
    rotary: Rotary,
    step: Int[Array, ""],
    prefix: Prefix,
    own: OwnCache,
) -> tuple[Float[Array, "B G D"], OwnCache]:
    """Compute the tokens at index `step` from their embeddings.

    Returns the normed states that predict the tokens at `step + 1`, and the cache with the K/V of
    the given tokens.
    """
    layers = _Unrolled if layout.unrolled else _Scanned
    x_BGD, own = layers(weights, arch).run(x_BGD, rotary, step, prefix, own)
    return rms_norm(x_BGD, weights["norm.scale"], arch.norm_eps), own


def empty_cache(
    arch: TextArch, layout: DecodeLayout, rows: int, group: int, capacity: int, dtype
) -> OwnCache:
    """Return caches for `capacity` tokens of `rows` x `group` completions."""
    shape = (rows, group, arch.kv_heads, capacity, arch.head_dim)

    def empty() -> Layers:
        if layout.unrolled:
            return tuple(split_rows(jnp.zeros(shape, dtype)) for _ in range(arch.layers))
        return split_rows(jnp.zeros((arch.layers, *shape), dtype), axis=1)

    return OwnCache(empty(), empty())


def grown(own: OwnCache, capacity: int) -> OwnCache:
    """Return the caches with room for `capacity` tokens."""

    def grow(x: Array) -> Array:
        return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, capacity - x.shape[-2]), (0, 0)])

    return jax.tree.map(grow, own)


def prefix_layout(
    k_LBPKC: Float[Array, "L B P K C"],
    v_LBPKC: Float[Array, "L B P K C"],
    mask_BP: Bool[Array, "B P"],
    layout: DecodeLayout,
) -> Prefix:
    """Return the K/V of a prefill as decoding reads them."""

    def arranged(x_LBPKC: Array) -> Layers:
        x_LBKPC = jnp.swapaxes(x_LBPKC, 2, 3)
        return tuple(x_LBKPC) if layout.unrolled else x_LBKPC

    return Prefix(arranged(k_LBPKC), arranged(v_LBPKC), mask_BP)


class _Unrolled:
    """All layers one after the other in the program."""

    def __init__(self, weights: Params, arch: TextArch):
        self.arch = arch
        self.layers = [_under(weights, f"{LAYERS}{layer}.") for layer in range(arch.layers)]

    def run(self, x_BGD, rotary, step, prefix: Prefix, own: OwnCache):
        keys, values = [], []
        for layer, weights in enumerate(self.layers):
            k_BGKTC, v_BGKTC = own.k[layer], own.v[layer]

            def write(k_BGKC, v_BGKC, k_BGKTC=k_BGKTC, v_BGKTC=v_BGKTC):
                keys.append(_put(k_BGKTC, k_BGKC, step))
                values.append(_put(v_BGKTC, v_BGKC, step))
                return keys[-1], values[-1]

            shared = prefix.k[layer], prefix.v[layer], prefix.mask
            x_BGD = _layer(weights, self.arch, split_rows(x_BGD), rotary, step, shared, write)
        return x_BGD, OwnCache(tuple(keys), tuple(values))


class _Scanned:
    """One layer in the program, in a loop; the caches of all layers are updated in place."""

    def __init__(self, weights: Params, arch: TextArch):
        self.arch, self.layers = arch, _under(weights, LAYERS)

    def run(self, x_BGD, rotary, step, prefix: Prefix, own: OwnCache):
        def body(carry, xs):
            x_BGD, own = carry
            weights, k_BKPC, v_BKPC, layer = xs

            def write(k_BGKC, v_BGKC):
                nonlocal own
                own = OwnCache(
                    _put_in_layer(own.k, k_BGKC, layer, step),
                    _put_in_layer(own.v, v_BGKC, layer, step),
                )
                return own.k[layer], own.v[layer]

            shared = k_BKPC, v_BKPC, prefix.mask
            x_BGD = _layer(weights, self.arch, split_rows(x_BGD), rotary, step, shared, write)
            return (x_BGD, own), None

        xs = self.layers, prefix.k, prefix.v, jnp.arange(self.arch.layers)
        return jax.lax.scan(body, (x_BGD, own), xs)[0]


def _put(cache_BGKTC: Array, new_BGKC: Array, step) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(cache_BGKTC, new_BGKC[:, :, :, None], step, axis=3)


def _put_in_layer(cache_LBGKTC: Array, new_BGKC: Array, layer, step) -> Array:
    start = (layer, 0, 0, 0, step, 0)
    return jax.lax.dynamic_update_slice(cache_LBGKTC, new_BGKC[None, :, :, :, None], start)


def _under(weights: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


@jax.named_scope("text_layer")
def _layer(weights, arch: TextArch, x_BGD, rotary: Rotary, step, shared, write):
    """Compute one pre-norm layer; `write` adds K/V to the cache and returns the layer's cache."""
    normed_BGD = rms_norm(x_BGD, weights["norm1.scale"], arch.norm_eps)
    widths = [heads * arch.head_dim for heads in (arch.heads, arch.kv_heads, arch.kv_heads)]
    q, k, v = _maps(weights, "attention.qkv", normed_BGD, widths)
    q, k, v = (x.reshape(*x.shape[:-1], -1, arch.head_dim) for x in (q, k, v))
    if "attention.q_norm.scale" in weights:
        q = rms_norm(q, weights["attention.q_norm.scale"], arch.norm_eps)
        k = rms_norm(k, weights["attention.k_norm.scale"], arch.norm_eps)
    k_BGKTC, v_BGKTC = write(rotary(k), v)
    heads_BGHC = _attend(rotary(q), shared, k_BGKTC, v_BGKTC, step)
    x_BGD = x_BGD + heads_BGHC.reshape(*x_BGD.shape[:-1], -1) @ weights["attention.o.kernel"]
    normed_BGD = rms_norm(x_BGD, weights["norm2.scale"], arch.norm_eps)
    gate, up = _maps(weights, "mlp.gate_up", normed_BGD, [arch.intermediate] * 2)
    return x_BGD + (jax.nn.silu(gate) * up) @ weights["mlp.down.kernel"]


def _maps(
    weights: Mapping[str, Array], joined: str, x: Float[Array, "B G D"], sizes: Sequence[int]
) -> list[Array]:
    """Return the results of the maps of JOINED[joined], from one product where they are joined."""
    if f"{joined}.kernel" not in weights:
        return [_map(weights, name, x) for name in JOINED[joined]]
    return jnp.split(_map(weights, joined, x), list(itertools.accumulate(sizes))[:-1], axis=-1)


def _map(weights: Mapping[str, Array], name: str, x: Float[Array, "B G I"]) -> Array:
    y = x @ weights[f"{name}.kernel"]
    bias = weights.get(f"{name}.bias")
    return y if bias is None else y + bias


def _attend(q_BGHC, shared, k_BGKTC, v_BGKTC, step) -> Float[Array, "B G H C"]:
    """Attend to the real tokens of the prefix, and to the own tokens up to index `step`."""
    k_BKPC, v_BKPC, mask_BP = shared
    B, G, H, C = q_BGHC.shape
    K = k_BKPC.shape[1]
    q_BGKRC = q_BGHC.reshape(B, G, K, H // K, C)
    # All queries of a key head are rows of one product with the prefix, whatever their completion.
    q_BKNC = jnp.swapaxes(q_BGKRC, 1, 2).reshape(B, K, -1, C)
    prefix_BKN = _part("bknc,bkpc->bknp", q_BKNC, k_BKPC, v_BKPC, mask_BP[:, None, None])
    prefix = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(B, K, G, H // K, -1), 1, 2), prefix_BKN)
    is_past_T = jnp.arange(k_BGKTC.shape[3]) <= step
    own = _part("bgkrc,bgktc->bgkrt", q_BGKRC, k_BGKTC, v_BGKTC, is_past_T)
    return _merge(prefix, own).reshape(B, G, H, C).astype(q_BGHC.dtype)


def _part(equation: str, q: Array, k: Array, v: Array, mask: Bool[Array, "..."]) -> _Part:
    """Attend to one part of the keys; `equation` gives the scores of queries and keys."""
    scores = jnp.einsum(equation, q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    scores = jnp.where(mask, scores, MASKED)
    top = jnp.max(scores, axis=-1, keepdims=True)
    shares = jnp.exp(scores - top)
    total = jnp.sum(shares, axis=-1, keepdims=True)
    operands, result = equation.split("->")
    queries, keys = operands.split(",")
    back = f"{result},{keys}->{queries}"
    values = jnp.einsum(back, shares.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return _Part(top, total, values)


def _merge(a: _Part, b: _Part) -> Float[Array, "B G K R C"]:
    """Return the attention over the keys of both parts."""
    top = jnp.maximum(a.top, b.top)
    share_a, share_b = jnp.exp(a.top - top), jnp.exp(b.top - top)
    total = a.total * share_a + b.total * share_b
    return (a.values * share_a + b.values * share_b) / total

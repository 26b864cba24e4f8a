"""One decoding step of a language model with a shared prefix, on prepared weights.

The G completions of a prompt share the keys and values of its prefix. Attention is computed in two
parts, over the prefix and over the completion's own tokens, each with its own softmax. The parts
are merged by their log-sum-exp, which gives the softmax over all keys, so that no array of joined
scores exists. Keys and values have the layout that the products read, batch axes first:
[B, K, P, C] and [B, G, K, T, C].

The token itself is written to the cache before attention reads it. The program then reads what it
has written, and updates the cache in place.

Shape legend: B prompts; P prefix tokens; G completions per prompt; T capacity of a cache; D hidden;
H query heads; K key/value heads; R = H / K query heads per key head; C head size; L layers; V
vocabulary.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from segr1_jax.policy import cudnn_attention
from segr1_jax.policy.attention import MASKED
from segr1_jax.policy.batch_rows import split_rows
from segr1_jax.policy.decode_weights import JOINED, LAYERS, DecodeLayout
from segr1_jax.policy.fused_attention import Visible
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
    """Attention over a part of the keys, with the log-sum-exp of their scores."""

    heads: Float[Array, "*rows N C"]
    lse: Float[Array, "*rows N"]


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
    forward = _cudnn_forward if layout.fused_attention else _forward
    x_BGD, own = layers(weights, arch, forward).run(x_BGD, rotary, step, prefix, own)
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

    def __init__(self, weights: Params, arch: TextArch, forward: Callable[..., _Part]):
        self.arch, self.forward = arch, forward
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
            attend = functools.partial(_attend, shared=shared, step=step, forward=self.forward)
            x_BGD = _layer(weights, self.arch, split_rows(x_BGD), rotary, attend, write)
        return x_BGD, OwnCache(tuple(keys), tuple(values))


class _Scanned:
    """One layer in the program, in a loop; the caches of all layers are updated in place."""

    def __init__(self, weights: Params, arch: TextArch, forward: Callable[..., _Part]):
        self.arch, self.forward = arch, forward
        self.layers = _under(weights, LAYERS)

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
            attend = functools.partial(_attend, shared=shared, step=step, forward=self.forward)
            x_BGD = _layer(weights, self.arch, split_rows(x_BGD), rotary, attend, write)
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
def _layer(weights, arch: TextArch, x_BGD, rotary: Rotary, attend, write):
    """Compute one pre-norm layer; `write` adds K/V to the cache and returns the layer's cache."""
    normed_BGD = rms_norm(x_BGD, weights["norm1.scale"], arch.norm_eps)
    widths = [heads * arch.head_dim for heads in (arch.heads, arch.kv_heads, arch.kv_heads)]
    q, k, v = _maps(weights, "attention.qkv", normed_BGD, widths)
    q, k, v = (x.reshape(*x.shape[:-1], -1, arch.head_dim) for x in (q, k, v))
    if "attention.q_norm.scale" in weights:
        q = rms_norm(q, weights["attention.q_norm.scale"], arch.norm_eps)
        k = rms_norm(k, weights["attention.k_norm.scale"], arch.norm_eps)
    k_BGKTC, v_BGKTC = write(rotary(k), v)
    heads_BGHC = attend(rotary(q), k_BGKTC, v_BGKTC)
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


def _attend(q_BGHC, k_BGKTC, v_BGKTC, *, shared, step, forward) -> Float[Array, "B G H C"]:
    """Attend to the real tokens of the prefix, and to the own tokens up to index `step`."""
    k_BKPC, v_BKPC, mask_BP = shared
    B, G, H, C = q_BGHC.shape
    K, T = k_BGKTC.shape[2:4]
    q_BGKRC = q_BGHC.reshape(B, G, K, H // K, C)
    # All queries of a key head are one sequence before the prefix, whatever their completion.
    q_BKNC = jnp.swapaxes(q_BGKRC, 1, 2).reshape(B, K, -1, C)
    prefix = forward(q_BKNC, k_BKPC, v_BKPC, mask_BP)
    prefix = jax.tree.map(
        lambda x: jnp.swapaxes(x.reshape(B, K, G, H // K, *x.shape[3:]), 1, 2), prefix
    )
    is_past_T = jnp.arange(T) <= step
    rows = (x.reshape(B * G, *x.shape[2:]) for x in (q_BGKRC, k_BGKTC, v_BGKTC))
    own = forward(*rows, jnp.broadcast_to(is_past_T, (B * G, T)))
    own = jax.tree.map(lambda x: x.reshape(B, G, *x.shape[1:]), own)
    return _merge(prefix, own).reshape(B, G, H, C).astype(q_BGHC.dtype)


def _forward(q_BKNC, k_BKSC, v_BKSC, mask_BS: Bool[Array, "B S"]) -> _Part:
    scores_BKNS = jnp.einsum("bknc,bksc->bkns", q_BKNC, k_BKSC, preferred_element_type=jnp.float32)
    scores_BKNS = jnp.where(mask_BS[:, None, None], scores_BKNS * q_BKNC.shape[-1] ** -0.5, MASKED)
    top_BKN1 = jnp.max(scores_BKNS, axis=-1, keepdims=True)
    shares_BKNS = jnp.exp(scores_BKNS - top_BKN1)
    total_BKN1 = jnp.sum(shares_BKNS, axis=-1, keepdims=True)
    heads_BKNC = jnp.einsum(
        "bkns,bksc->bknc",
        shares_BKNS.astype(v_BKSC.dtype),
        v_BKSC,
        preferred_element_type=jnp.float32,
    )
    return _Part(heads_BKNC / total_BKN1, (top_BKN1 + jnp.log(total_BKN1))[..., 0])


def _cudnn_forward(q_BKNC, k_BKSC, v_BKSC, mask_BS: Bool[Array, "B S"]) -> _Part:
    """Attend by cuDNN's kernel; the real keys must come first."""
    queries_B = jnp.full(len(q_BKNC), q_BKNC.shape[2], jnp.int32)
    visible = Visible(queries_B, mask_BS.sum(axis=1, dtype=jnp.int32))
    return _Part(*cudnn_attention.forward(q_BKNC, k_BKSC, v_BKSC, visible, False, heads_first=True))


def _merge(a: _Part, b: _Part) -> Float[Array, "*rows N C"]:
    """Return the attention over the keys of both parts, in float32."""
    lse = jnp.logaddexp(a.lse, b.lse)
    return sum(jnp.exp(part.lse - lse)[..., None] * part.heads for part in (a, b))

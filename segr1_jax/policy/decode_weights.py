"""Weights of the language model as decoding reads them, prepared once per rollout.

Adapters are merged in float32, values are cast to the compute dtype, and maps that read the same
states are joined into one product. Joining reduces the number of kernels per token, and casting
here avoids conversions inside the decoding loop.

Weights are recognized by name (`layers.attention.q.kernel`). A bias is prepared only if the model
declares one, and norms of queries and keys are passed through unchanged.

Shape legend: L layers; I, O sizes of a linear map.
"""

import dataclasses
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from segr1_jax.policy.params import ADAPTER, TOWER, Params, Policy, WeightSpec

LAYERS = "layers."
JOINED = {
    "attention.qkv": ("attention.q", "attention.k", "attention.v"),
    "mlp.gate_up": ("mlp.gate", "mlp.up"),
}
"""Maps that read the same states, by the name of their joined map."""


@dataclass(frozen=True)
class DecodeLayout:
    """Layout of the weights and caches of decoding.

    Attributes:
        joined: the maps of JOINED are one product. A mesh that splits the heads keeps them apart.
        unrolled: every layer has arrays of its own. A program then has no slices of stacked
            weights, which a GPU would copy for every token, but it grows with the depth.
        fused_attention: attention by cuDNN (NVIDIA GPUs, bfloat16).
    """

    joined: bool = True
    unrolled: bool = False
    fused_attention: bool = False


SCANNED = DecodeLayout()


@dataclass(frozen=True)
class _Prepared:
    """One prepared weight: its shape and axes, and the weights that it is made of."""

    spec: WeightSpec
    sources: tuple[str, ...]
    layer: int | None = None


def decode_specs(policy: Policy, layout: DecodeLayout) -> dict[str, WeightSpec]:
    """Return shape and logical axes of every weight of `decode_weights`."""
    return {name: prepared.spec for name, prepared in _table(policy, layout).items()}


def decode_weights(policy: Policy, params: Params, layout: DecodeLayout) -> Params:
    """Return the weights of decoding in the compute dtype of the policy; to be jitted."""

    def prepare(prepared: _Prepared) -> Array:
        parts = [_merged(policy, params, name, prepared.layer) for name in prepared.sources]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)

    return {name: prepare(prepared) for name, prepared in _table(policy, layout).items()}


def _names(policy: Policy) -> list[str]:
    """Return the weights that decoding reads: all but the tower, and no adapters."""
    return [name for name in policy.base.specs if not name.startswith(TOWER)]


def _merged(policy: Policy, params: Params, name: str, layer: int | None) -> Float[Array, "..."]:
    """Return one weight, or one layer of a stack, cast after its adapter is added."""

    def read(name: str) -> Array:
        # One layer before anything is computed, so that no second stack exists.
        return params[name] if layer is None else params[name][layer]

    a, b = (name.removesuffix(".kernel") + suffix for suffix in ADAPTER)
    if not name.endswith(".kernel") or a not in params:
        return read(name).astype(policy.dtype)
    a_32, b_32 = (read(each).astype(jnp.float32) for each in (a, b))
    low_rank = jnp.matmul(a_32, b_32, precision="highest")
    kernel = read(name).astype(jnp.float32) + policy.lora.scale * low_rank
    return kernel.astype(policy.dtype)


def _table(policy: Policy, layout: DecodeLayout) -> dict[str, _Prepared]:
    """Return every prepared weight by its name."""
    table: dict[str, _Prepared] = {}
    for name in _names(policy):
        joined, sources = _joined(name, policy.base.specs, layout)
        table.setdefault(joined, _Prepared(_join(policy.base.specs, sources), sources))
    if not layout.unrolled:
        return table
    apart: dict[str, _Prepared] = {}
    for name, prepared in table.items():
        if not name.startswith(LAYERS):
            apart[name] = prepared
            continue
        spec = WeightSpec(prepared.spec.shape[1:], prepared.spec.axes[1:])
        for layer in range(prepared.spec.shape[0]):
            own = name.replace(LAYERS, f"{LAYERS}{layer}.", 1)
            apart[own] = dataclasses.replace(prepared, spec=spec, layer=layer)
    return apart


def _joined(
    name: str, specs: dict[str, WeightSpec], layout: DecodeLayout
) -> tuple[str, tuple[str, ...]]:
    """Return the name that a weight has after joining, and all weights joined in it."""
    for whole, parts in JOINED.items() if layout.joined else ():
        for part in parts:
            if name.startswith(f"{LAYERS}{part}."):
                kind = name.removeprefix(f"{LAYERS}{part}.")
                sources = (f"{LAYERS}{each}.{kind}" for each in parts)
                return f"{LAYERS}{whole}.{kind}", tuple(each for each in sources if each in specs)
    return name, (name,)


def _join(specs: dict[str, WeightSpec], sources: tuple[str, ...]) -> WeightSpec:
    first = specs[sources[0]]
    if len(sources) == 1:
        return first
    width = sum(specs[source].shape[-1] for source in sources)
    # The parts have different numbers of heads, so their common axis is not split.
    return WeightSpec((*first.shape[:-1], width), (*first.axes[:-1], None))

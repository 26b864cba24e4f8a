"""Table of our weights and their Hugging Face names, read both ways, for both published layouts.

Our linear kernels are [in, out] (torch: [out, in]), layers are stacked along a leading axis, and
the joined qkv map of the vision tower is three kernels.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from segr1_jax.policy.qwen2_5_vl.arch import PolicyArch

LAYOUTS = {
    "published": {"text": "model", "visual": "visual"},
    "nested": {"text": "model.language_model", "visual": "model.visual"},
}
"""Prefixes of tensor names by layout.

`published` is the layout of the checkpoints on the hub and of transformers < 4.52; transformers >=
4.52 saves `nested`.
"""


@dataclass(frozen=True)
class Key:
    """Stored form of one of our weights.

    Attributes:
        name: template of the tensor's name.
        move: conversion of the stored array to ours: same, transpose, or conv (a convolution over
            whole patches becomes a linear kernel).
        part: (index, count) of our weight in a tensor that joins several.
    """

    name: str
    move: str = "same"
    part: tuple[int, int] = (0, 1)


def _linear(
    ours: str, theirs: str, *, bias: bool, part: tuple[int, int] = (0, 1)
) -> dict[str, Key]:
    keys = {f"{ours}.kernel": Key(f"{theirs}.weight", "transpose", part)}
    return keys | ({f"{ours}.bias": Key(f"{theirs}.bias", "same", part)} if bias else {})


TEXT_LAYER = "{text}.layers.{layer}"
VISION_LAYER = "{visual}.blocks.{layer}"
TABLE: dict[str, Key] = {
    "embed": Key("{text}.embed_tokens.weight"),
    "norm.scale": Key("{text}.norm.weight"),
    "layers.norm1.scale": Key(f"{TEXT_LAYER}.input_layernorm.weight"),
    "layers.norm2.scale": Key(f"{TEXT_LAYER}.post_attention_layernorm.weight"),
    **_linear("layers.attention.q", f"{TEXT_LAYER}.self_attn.q_proj", bias=True),
    **_linear("layers.attention.k", f"{TEXT_LAYER}.self_attn.k_proj", bias=True),
    **_linear("layers.attention.v", f"{TEXT_LAYER}.self_attn.v_proj", bias=True),
    **_linear("layers.attention.o", f"{TEXT_LAYER}.self_attn.o_proj", bias=False),
    **_linear("layers.mlp.gate", f"{TEXT_LAYER}.mlp.gate_proj", bias=False),
    **_linear("layers.mlp.up", f"{TEXT_LAYER}.mlp.up_proj", bias=False),
    **_linear("layers.mlp.down", f"{TEXT_LAYER}.mlp.down_proj", bias=False),
    "vision.patch_embed": Key("{visual}.patch_embed.proj.weight", "conv"),
    "vision.layers.norm1.scale": Key(f"{VISION_LAYER}.norm1.weight"),
    "vision.layers.norm2.scale": Key(f"{VISION_LAYER}.norm2.weight"),
    **_linear("vision.layers.attention.q", f"{VISION_LAYER}.attn.qkv", bias=True, part=(0, 3)),
    **_linear("vision.layers.attention.k", f"{VISION_LAYER}.attn.qkv", bias=True, part=(1, 3)),
    **_linear("vision.layers.attention.v", f"{VISION_LAYER}.attn.qkv", bias=True, part=(2, 3)),
    **_linear("vision.layers.attention.o", f"{VISION_LAYER}.attn.proj", bias=True),
    **_linear("vision.layers.mlp.gate", f"{VISION_LAYER}.mlp.gate_proj", bias=True),
    **_linear("vision.layers.mlp.up", f"{VISION_LAYER}.mlp.up_proj", bias=True),
    **_linear("vision.layers.mlp.down", f"{VISION_LAYER}.mlp.down_proj", bias=True),
    "vision.merge_norm.scale": Key("{visual}.merger.ln_q.weight"),
    **_linear("vision.merge_in", "{visual}.merger.mlp.0", bias=True),
    **_linear("vision.merge_out", "{visual}.merger.mlp.2", bias=True),
}
HEAD = _linear("head", "lm_head", bias=False)
HEAD_NAME = "lm_head.weight"


def table(arch: PolicyArch) -> dict[str, Key]:
    """Return the key of every weight of this architecture."""
    return TABLE if arch.text.tied_head else TABLE | HEAD


def detect_layout(names: Iterable[str]) -> str | None:
    """Return the layout of these tensor names, or None."""
    names = set(names)
    for layout, prefixes in LAYOUTS.items():
        if f"{prefixes['text']}.embed_tokens.weight" in names:
            return layout
    return None


def stored_name(key: Key, layout: str, layer: int | None = None) -> str:
    """Return the Hugging Face name of a key (of one layer where the weight is stacked)."""
    return key.name.format(**LAYOUTS[layout], layer=layer)


def stored_shape(key: Key, ours: tuple[int, ...], arch: PolicyArch) -> tuple[int, ...]:
    """Return the stored shape of our weight of shape `ours`, without the layer axis."""
    if key.move == "conv":
        vision = arch.vision
        return (ours[1], vision.in_channels, vision.temporal_patch, vision.patch, vision.patch)
    shape = ours[::-1] if key.move == "transpose" else ours
    return (shape[0] * key.part[1], *shape[1:])


def to_ours(stored: np.ndarray, key: Key) -> np.ndarray:
    """Return a view of the stored array in our orientation (no copy)."""
    index, count = key.part
    rows = stored.shape[0] // count
    stored = stored[index * rows : (index + 1) * rows]
    return stored if key.move == "same" else stored.reshape(stored.shape[0], -1).T

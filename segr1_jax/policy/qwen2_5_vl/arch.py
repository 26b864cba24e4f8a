"""Architecture of a Qwen2.5-VL policy, read from `config.json` (flat and nested forms)."""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from segr1_jax.common.json_fields import Fields
from segr1_jax.errors import UserError

MODEL_TYPE = "qwen2_5_vl"
REMEDY = "restore the checkpoint's own config.json"


@dataclass(frozen=True)
class VisionArch:
    """Sizes of the vision tower.

    `window` is the side of an attention window in pixels. The layers of `full_layers` attend over
    the whole image, the others inside windows.
    """

    depth: int
    hidden: int
    intermediate: int
    heads: int
    out_hidden: int
    in_channels: int
    patch: int
    temporal_patch: int
    merge: int
    window: int
    full_layers: tuple[int, ...]

    @property
    def patch_values(self) -> int:
        return self.in_channels * self.temporal_patch * self.patch**2

    @property
    def full_share(self) -> float:
        """The share of the layers that attend over the whole image."""
        return len(self.full_layers) / self.depth


@dataclass(frozen=True)
class TextArch:
    """Sizes of the language model.

    `mrope_section` is the number of rotary frequencies of each axis (temporal, height, width); they
    add up to half of a head.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    rope_theta: float
    mrope_section: tuple[int, int, int]
    norm_eps: float
    tied_head: bool


@dataclass(frozen=True)
class PolicyArch:
    """Sizes of both towers, and the ids of special tokens."""

    vision: VisionArch
    text: TextArch
    image_token: int
    video_token: int
    vision_start_token: int
    vision_end_token: int
    vision_pad_token: int | None
    unknown_ids: tuple[int, ...] = ()

    def knowing(self, ids: Collection[int]) -> "PolicyArch":
        """Return the architecture for a tokenizer with these ids; the vocabulary may have more."""
        unknown = tuple(token for token in range(self.text.vocab) if token not in ids)
        return dataclasses.replace(self, unknown_ids=unknown)

    @property
    def never_sampled(self) -> tuple[int, ...]:
        """Ids whose logits are masked.

        These are the special ids of vision, which would break the next forward pass over a
        completion, and the ids that the tokenizer lacks, which have no text.
        """
        ids = (
            self.image_token,
            self.video_token,
            self.vision_start_token,
            self.vision_end_token,
            self.vision_pad_token,
        )
        return tuple(sorted({token for token in ids if token is not None} | {*self.unknown_ids}))


def arch_from_config(config: Mapping[str, Any], where: str = "config.json") -> PolicyArch:
    """Read the architecture from a published configuration.

    The form of transformers 5, with nested `text_config` and `rope_parameters`, is read too.

    Raises:
        UserError: another architecture, a missing field, or sizes that contradict each other.
    """
    if config.get("model_type") != MODEL_TYPE:
        raise UserError(
            f"{where}: model_type",
            expected=MODEL_TYPE,
            got=str(config.get("model_type")),
            remedy="start from a Qwen2.5-VL checkpoint",
        )
    outer = Fields(config, where, REMEDY)
    text = outer.section("text_config", default={}).over(outer)
    vision = outer.section("vision_config")
    tokens = outer.over(text)
    arch = PolicyArch(
        vision=_vision(vision),
        text=_text(outer, text),
        image_token=tokens.index("image_token_id"),
        video_token=tokens.index("video_token_id"),
        vision_start_token=tokens.index("vision_start_token_id"),
        vision_end_token=tokens.index("vision_end_token_id"),
        vision_pad_token=tokens.index("vision_token_id", default=None),
    )
    _check(arch, where)
    _check_variants(text, vision, where)
    return arch


def _vision(fields: Fields) -> VisionArch:
    return VisionArch(
        depth=fields.size("depth"),
        hidden=fields.size("hidden_size"),
        intermediate=fields.size("intermediate_size"),
        heads=fields.size("num_heads"),
        out_hidden=fields.size("out_hidden_size"),
        in_channels=fields.size("in_channels", "in_chans", default=3),
        patch=fields.size("patch_size"),
        temporal_patch=fields.size("temporal_patch_size", default=2),
        merge=fields.size("spatial_merge_size"),
        window=fields.size("window_size"),
        full_layers=fields.sizes("fullatt_block_indexes"),
    )


def _text(config: Fields, text: Fields) -> TextArch:
    rope = _rope(text)
    hidden, heads = text.size("hidden_size"), text.size("num_attention_heads")
    return TextArch(
        layers=text.size("num_hidden_layers"),
        hidden=hidden,
        intermediate=text.size("intermediate_size"),
        heads=heads,
        kv_heads=text.size("num_key_value_heads"),
        head_dim=text.size("head_dim") if text.get("head_dim") else hidden // heads,
        vocab=text.size("vocab_size"),
        rope_theta=rope.over(text).number("rope_theta"),
        mrope_section=rope.sizes("mrope_section", 3),
        norm_eps=text.number("rms_norm_eps"),
        tied_head=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
    )


def _rope(text: Fields) -> Fields:
    name = "rope_parameters" if text.get("rope_parameters") else "rope_scaling"
    return text.section(name) if text.get(name) else text.section("no rope", default={})


def _check(arch: PolicyArch, where: str) -> None:
    text, vision = arch.text, arch.vision
    rules = [
        (
            2 * sum(text.mrope_section) == text.head_dim,
            f"mrope_section that adds up to head_dim / 2 = {text.head_dim // 2}",
            text.mrope_section,
        ),
        (
            text.heads % text.kv_heads == 0,
            "num_attention_heads a multiple of num_key_value_heads",
            (text.heads, text.kv_heads),
        ),
        (
            vision.out_hidden == text.hidden,
            f"vision out_hidden_size = hidden_size = {text.hidden}",
            vision.out_hidden,
        ),
        (
            vision.window % (vision.patch * vision.merge) == 0,
            "window_size a multiple of patch_size * spatial_merge_size",
            vision.window,
        ),
    ]
    _require(rules, where)


def _check_variants(text: Fields, vision: Fields, where: str) -> None:
    """Raise UserError for variants that the published models do not use and this code lacks."""
    rope = _rope(text)
    kinds = {str(rope.get(name)) for name in ("type", "rope_type") if rope.get(name)}
    rules = [
        (kinds <= {"mrope", "default"}, "rope of type mrope or default", sorted(kinds)),
        (text.get("hidden_act", "silu") == "silu", "hidden_act silu", text.get("hidden_act")),
        (
            vision.get("hidden_act", "silu") == "silu",
            "vision hidden_act silu",
            vision.get("hidden_act"),
        ),
        (not text.get("use_sliding_window"), "no sliding window", "use_sliding_window true"),
    ]
    _require(rules, where)


def _require(rules: list[tuple[bool, str, Any]], where: str) -> None:
    for holds, expected, got in rules:
        if not holds:
            raise UserError(
                where,
                expected=expected,
                got=str(got),
                remedy=REMEDY,
            )

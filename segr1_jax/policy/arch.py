"""The architecture of a Qwen2.5-VL policy, read from `config.json` alone (flat and nested forms)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segr1_jax.errors import UserError

MODEL_TYPE = "qwen2_5_vl"


@dataclass(frozen=True)
class VisionArch:
    """The vision tower. `window` is the side of an attention window in pixels; `full_layers` attend over the whole image."""

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


@dataclass(frozen=True)
class TextArch:
    """The language model. `mrope_section` splits half a head's rotary frequencies among the (temporal, height, width) axes."""

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
    """Everything the modules need to know about sizes, and the token ids with a meaning."""

    vision: VisionArch
    text: TextArch
    image_token: int
    video_token: int
    vision_start_token: int
    vision_end_token: int
    vision_pad_token: int | None

    @property
    def never_sampled(self) -> tuple[int, ...]:
        """Vision special ids: a completion that held one would break the next forward pass, so their logits are masked."""
        ids = (
            self.image_token,
            self.video_token,
            self.vision_start_token,
            self.vision_end_token,
            self.vision_pad_token,
        )
        return tuple(sorted({token for token in ids if token is not None}))


def arch_from_config(config: Mapping[str, Any], where: str = "config.json") -> PolicyArch:
    """Read a published (flat) or transformers 5 (nested `text_config`, `rope_parameters`) configuration.

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
    text = {**config, **config.get("text_config", {})}
    try:
        arch = PolicyArch(
            _vision(config["vision_config"]), _text(config, text), *_token_ids(config, text)
        )
    except KeyError as error:
        raise UserError(
            where,
            expected=f"a field {error}",
            got="none",
            remedy="restore the checkpoint's own config.json",
        ) from None
    _check(arch, where)
    _check_variants(text, config["vision_config"], where)
    return arch


def _vision(fields: Mapping[str, Any]) -> VisionArch:
    return VisionArch(
        depth=fields["depth"],
        hidden=fields["hidden_size"],
        intermediate=fields["intermediate_size"],
        heads=fields["num_heads"],
        out_hidden=fields["out_hidden_size"],
        in_channels=fields.get("in_channels", fields.get("in_chans", 3)),
        patch=fields["patch_size"],
        temporal_patch=fields.get("temporal_patch_size", 2),
        merge=fields["spatial_merge_size"],
        window=fields["window_size"],
        full_layers=tuple(fields["fullatt_block_indexes"]),
    )


def _text(config: Mapping[str, Any], text: Mapping[str, Any]) -> TextArch:
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    theta = rope.get("rope_theta", text.get("rope_theta"))
    if theta is None:
        raise KeyError("rope_theta")
    return TextArch(
        layers=text["num_hidden_layers"],
        hidden=text["hidden_size"],
        intermediate=text["intermediate_size"],
        heads=text["num_attention_heads"],
        kv_heads=text["num_key_value_heads"],
        head_dim=text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"],
        vocab=text["vocab_size"],
        rope_theta=float(theta),
        mrope_section=tuple(rope["mrope_section"]),
        norm_eps=text["rms_norm_eps"],
        tied_head=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
    )


def _token_ids(config: Mapping[str, Any], text: Mapping[str, Any]) -> tuple[int | None, ...]:
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    required = tuple(config[name] if name in config else text[name] for name in names)
    return (*required, config.get("vision_token_id"))


def _check(arch: PolicyArch, where: str) -> None:
    text, vision = arch.text, arch.vision
    rules = [
        (
            2 * sum(text.mrope_section) == text.head_dim,
            f"mrope_section adding up to head_dim / 2 = {text.head_dim // 2}",
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


def _check_variants(text: Mapping[str, Any], vision: Mapping[str, Any], where: str) -> None:
    """What the published models do not use and the policy does not compute: better an error than another model's numbers."""
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kinds = {rope[name] for name in ("type", "rope_type") if name in rope}
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
                remedy="restore the checkpoint's own config.json",
            )

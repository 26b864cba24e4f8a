"""The numbers of a policy directory that decide how an image becomes patches.

They stand in config.json and in the processor's file.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from segr1_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class VisionSettings:
    """Pixels per patch side, frames per patch, patches per merged side, window side in pixels, and RGB mean and deviation on [0, 1]."""

    patch: int
    temporal_patch: int
    merge: int
    window: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def unit(self) -> int:
        """Pixels per side of one merged unit, which is one image token; frames are multiples of it."""
        return self.patch * self.merge

    def image_tokens(self, height: int, width: int) -> int:
        """Image tokens of a frame of `height` x `width` pixels."""
        return (height // self.unit) * (width // self.unit)


def read_vision_settings(directory: str | Path) -> VisionSettings:
    """Read the settings of a Hugging Face policy directory. Raises UserError naming the file and the field."""
    directory = Path(directory)
    config = directory / "config.json"
    vision = _field(_read(config), "vision_config", config)
    processor, pixels = _image_processor(directory)
    settings = VisionSettings(
        patch=_field(vision, "patch_size", config),
        temporal_patch=_field(vision, "temporal_patch_size", config),
        merge=_field(vision, "spatial_merge_size", config),
        window=_field(vision, "window_size", config),
        mean=tuple(_field(pixels, "image_mean", processor)),
        std=tuple(_field(pixels, "image_std", processor)),
    )
    if settings.window % settings.unit:
        raise UserError(
            str(config),
            expected=f"window_size, a multiple of {settings.unit}",
            got=str(settings.window),
            remedy="mend the file",
        )
    return settings


def _image_processor(directory: Path) -> tuple[Path, dict[str, Any]]:
    """The image processor's settings and their file; transformers 5 writes one file for both."""
    own, joint = directory / "preprocessor_config.json", directory / "processor_config.json"
    if joint.is_file() and not own.is_file():
        return joint, _field(_read(joint), "image_processor", joint)
    return own, _read(own)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            str(path),
            expected="a JSON file",
            got=str(error),
            remedy="point policy.path at a Hugging Face directory",
        ) from error


def _field(record: dict[str, Any], name: str, path: Path) -> Any:
    if name not in record:
        raise UserError(
            str(path),
            expected=f"the field {name}",
            got="none",
            remedy="use the files of a Qwen2.5-VL checkpoint",
        )
    return record[name]

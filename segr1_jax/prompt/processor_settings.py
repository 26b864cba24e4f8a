"""Settings of a policy directory that define the patches of an image.

They are stored in config.json and in the file of the processor.
"""

import dataclasses
from pathlib import Path

from segr1_jax.common.json_fields import Fields, read_object
from segr1_jax.errors import UserError

REMEDY = "point policy.path at the whole directory of a Qwen2.5-VL checkpoint"


@dataclasses.dataclass(frozen=True)
class VisionSettings:
    """Patch geometry and normalization of the vision tower.

    Attributes:
        patch: side of a patch in pixels.
        temporal_patch: frames per patch.
        merge: side of a merged unit in patches.
        window: side of an attention window in pixels.
        mean: mean of each RGB channel, for values on [0, 1].
        std: standard deviation of each RGB channel, for values on [0, 1].
    """

    patch: int
    temporal_patch: int
    merge: int
    window: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def unit(self) -> int:
        """Side in pixels of a merged unit, which is one image token; frames are multiples of it."""
        return self.patch * self.merge

    def image_tokens(self, height: int, width: int) -> int:
        """Return the number of image tokens of a frame of `height` x `width` pixels."""
        return (height // self.unit) * (width // self.unit)


def read_vision_settings(directory: str | Path) -> VisionSettings:
    """Read the settings of a Hugging Face policy directory.

    Raises UserError that names the file and the field.
    """
    directory = Path(directory)
    config = directory / "config.json"
    vision = Fields(read_object(config, remedy=REMEDY), str(config), REMEDY).section(
        "vision_config"
    )
    processor, pixels = _image_processor(directory)
    settings = VisionSettings(
        patch=vision.size("patch_size"),
        temporal_patch=vision.size("temporal_patch_size"),
        merge=vision.size("spatial_merge_size"),
        window=vision.size("window_size"),
        mean=pixels.numbers("image_mean", 3),
        std=pixels.numbers("image_std", 3),
    )
    if min(settings.std) <= 0:
        got = str(list(settings.std))
        raise UserError(str(processor), expected="image_std above 0", got=got, remedy=REMEDY)
    if settings.window % settings.unit:
        raise UserError(
            str(config),
            expected=f"window_size, a multiple of {settings.unit}",
            got=str(settings.window),
            remedy=REMEDY,
        )
    return settings


def _image_processor(directory: Path) -> tuple[Path, Fields]:
    """Return the file of the image processor's settings, and these settings.

    transformers 5 writes the settings of all processors to one file.
    """
    own, joint = directory / "preprocessor_config.json", directory / "processor_config.json"
    if joint.is_file() and not own.is_file():
        fields = Fields(read_object(joint, remedy=REMEDY), str(joint), REMEDY)
        return joint, fields.section("image_processor")
    return own, Fields(read_object(own, remedy=REMEDY), str(own), REMEDY)

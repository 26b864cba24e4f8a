"""Files of an evaluation: one line per sample and one lossless mask per answer."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from segr1_jax.common.drawing import png
from segr1_jax.common.files import json_line, write_atomically
from segr1_jax.common.picture_formats import opened
from segr1_jax.errors import UserError
from segr1_jax.types import SamPrompt

LINES, MASKS = "predictions.jsonl", "masks"
SKIPPED, QUARANTINED = "skipped", "quarantined"
# Parts of a path that are no file of their own.
_SPECIAL = {"": "%", ".": "%2E", "..": "%2E%2E"}


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The answer about one sample.

    Attributes:
        status: a ParseStatus value, "quarantined" if the sidecar failed on the answer, "skipped" if
            the sample cannot be read.
        reason: why it was skipped.
        sample: hash of the image, the sentence and the ignored regions (data/sample_digests.py).
        photo: file of the image, relative to the folder of all images; None without files.
        mask: file of the mask, relative to the folder of the lines; None without a parsed answer.
        prompts: boxes and points in native pixels.
    """

    name: str
    status: str
    photo: str | None = None
    instruction: str | None = None
    answer: str | None = None
    mask: str | None = None
    prompts: tuple[dict[str, Any], ...] = ()
    reason: str | None = None
    sample: str | None = None

    def line(self) -> str:
        """Return one JSON line, the same for the same content."""
        kept = {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if value not in (None, ())
        }
        return json_line(kept)


def mask_name(name: str) -> str:
    """Return the path of a sample's mask, inside the folder and unique to this name.

    Path components with a special meaning (empty, `.`, `..`), NUL and `%` are percent-encoded, as
    in URLs. Names that differ only in case need a case-sensitive file system.

    Example:
        >>> mask_name("photos/12"), mask_name("/etc/../x")
        ('masks/photos/12.png', 'masks/%/etc/%2E%2E/x.png')
    """
    return f"{MASKS}/{'/'.join(map(_written, name.split('/')))}.png"


def _written(part: str) -> str:
    if part in _SPECIAL:
        return _SPECIAL[part]
    return part.replace("%", "%25").replace("\0", "%00")


def write_mask(folder: Path, name: str, mask_HW: Bool[np.ndarray, "H W"]) -> str:
    """Write a mask as 0 and 255 and return its path relative to `folder`.

    The caller makes it durable before a line names it.
    """
    path = folder / mask_name(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, png(mask_HW.astype(np.uint8) * 255), durable=False)
    return mask_name(name)


def remove_mask(folder: Path, name: str) -> None:
    """Delete the mask of a sample, if there is one."""
    (folder / mask_name(name)).unlink(missing_ok=True)


def read_map(path: Path) -> UInt8[np.ndarray, "H W"]:
    """Read a mask or soft map as 8 bits; 16 bits are scaled, color is converted to gray."""
    with opened(path, "gray") as image:
        deep = image.mode.startswith("I;16")
        # Pillow reads gray PNGs of 16 bits as mode I in older releases.
        deep = deep or (image.mode == "I" and image.format == "PNG")
        if image.mode in ("I", "F") and not deep:
            raise UserError(
                str(path),
                expected="a gray picture of 8 or 16 bits",
                got=f"mode {image.mode}",
                remedy="write it again with values from 0 to 255",
            )
        values_HW = np.asarray(image if deep else image.convert("L"))
    if values_HW.max(initial=0) <= 1:  # a mask of 0 and 1
        return values_HW.astype(np.uint8) * np.uint8(255)
    return np.round(values_HW / 257).astype(np.uint8) if deep else values_HW


def are_predictions(path: Path) -> bool:
    """Return True where a file begins as an evaluation writes it, and not as a list of answers."""
    if not path.is_file():
        return False
    try:
        record = json.loads(next(iter(_lines(path)), ""))
    except ValueError:
        return False
    return isinstance(record, dict) and {"name", "status"} <= set(record)


def read_predictions(path: Path) -> Iterator[Prediction]:
    """Yield every prediction; raise UserError at a line that is none."""
    names = {field.name for field in dataclasses.fields(Prediction)}
    for number, line in enumerate(_lines(path), start=1):
        try:
            record = json.loads(line)
            kept = {name: value for name, value in record.items() if name in names}
            yield Prediction(**kept | {"prompts": tuple(kept.get("prompts", ()))})
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}:{number}",
                expected="a prediction",
                got=str(error)[:200],
                remedy="fix or delete the line",
            ) from error


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split(
            "\n"
        )  # splitlines would cut a text at U+2028 too
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            str(path),
            expected="predictions, one JSON object per line",
            got=str(error),
            remedy="correct the path",
        ) from error
    return lines if lines[-1] else lines[:-1]


def as_records(prompts: Sequence[SamPrompt]) -> tuple[dict[str, Any], ...]:
    """Return boxes and points as JSON values."""
    return tuple(
        {
            "box": None if prompt.box is None else prompt.box.tolist(),
            "points": prompt.points.tolist(),
            "labels": prompt.labels.tolist(),
        }
        for prompt in prompts
    )

"""Tables of pictures as `datasets` holds them, and the same samples as files."""

import io
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from segr1_jax.data.config import DataConfig
from segr1_jax.data.synthetic import generate

SENTENCES = ["the fish", None, "the left cup", "the fish"]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def picture_table(datasets: ModuleType, count: int, size: int = 84, seed: int = 0):
    """A datasets.Dataset of synthetic samples, of every other one a second sentence."""
    config = DataConfig(size=size, seed=seed)
    made = [generate(config, index) for index in range(count)]
    columns = {
        "image": [{"bytes": png(each.image), "path": None} for each in made],
        "mask": [{"bytes": png(each.mask), "path": None} for each in made],
        "sentence": [SENTENCES[index % len(SENTENCES)] for index in range(count)],
    }
    features = datasets.Features(
        image=datasets.Image(), mask=datasets.Image(), sentence=datasets.Value("string")
    )
    return datasets.Dataset.from_dict(columns, features=features)


def write_as_files(table, folder: Path) -> None:
    """Write images and masks of a table as PNGs, byte for byte, named by row."""
    for column in ("image", "mask"):
        (folder / f"{column}s").mkdir(parents=True)
        for row, value in enumerate(table.data.column(column).to_pylist()):
            (folder / f"{column}s" / f"{row:06d}.png").write_bytes(value["bytes"])

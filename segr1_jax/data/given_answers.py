"""Given answers to be scored: one JSON line for each, with its image and mask."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from segr1_jax.data.images import open_image, open_mask
from segr1_jax.data.json_lines import read_records
from segr1_jax.types import Example


@dataclass(frozen=True)
class GivenAnswer:
    """One line of a file of answers; `id` defaults to the number of the line."""

    line: int
    id: str
    image: Path
    mask: Path
    text: str


def read_answers(path: Path) -> Iterator[GivenAnswer]:
    """Yield the lines of `path`: {"image": .., "mask": .., "answer": .., "id": ..}.

    Paths are relative to the file, and the id is optional. Raises UserError at a line that is not
    such an object.
    """
    records = read_records(path, paths=("image", "mask"), texts=("answer",), optional=("id",))
    for line, record in records:
        yield GivenAnswer(
            line=line,
            id=record.get("id", str(line)),
            image=path.parent / record["image"],
            mask=path.parent / record["mask"],
            text=record["answer"],
        )


def example_opener() -> Callable[[Path, Path], Example]:
    """Return a function (image path, mask path) -> Example that raises UserError for bad files.

    It caches the last image and the last pair, so consecutive answers on one image read it once.
    """
    last_image = functools.lru_cache(maxsize=1)(open_image)

    @functools.lru_cache(maxsize=1)
    def open_example(image: Path, mask: Path) -> Example:
        pixels_HW3 = last_image(image)
        mask_HW = open_mask(mask, *pixels_HW3.shape[:2])
        return Example(id=0, name=str(image), image=pixels_HW3, mask=mask_HW)

    return open_example

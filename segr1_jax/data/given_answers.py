"""Answers that somebody already has, to be scored: one JSON line each, with the image they speak of and its mask."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from segr1_jax.data.images import open_image, open_mask
from segr1_jax.data.json_lines import read_records
from segr1_jax.types import Example


@dataclass(frozen=True)
class GivenAnswer:
    """One line of a file of answers; `id` is the line's number where the line has none."""

    line: int
    id: str
    image: Path
    mask: Path
    text: str


def read_answers(path: Path) -> Iterator[GivenAnswer]:
    """The lines of `path`, one at a time: {"image": .., "mask": .., "answer": .., "id": ..}, paths relative to the file, id optional.

    Raises UserError at a line that is no such object.
    """
    for line, record in read_records(
        path, paths=("image", "mask"), texts=("answer",), optional=("id",)
    ):
        image, mask = path.parent / record["image"], path.parent / record["mask"]
        yield GivenAnswer(line, record.get("id", str(line)), image, mask, record["answer"])


def example_opener() -> Callable[[Path, Path], Example]:
    """A function (image path, mask path) -> Example that raises UserError for bad files.

    It remembers the last image and the last pair, so that consecutive answers on one image read it once.
    """
    last_image = functools.lru_cache(maxsize=1)(open_image)

    @functools.lru_cache(maxsize=1)
    def open_example(image: Path, mask: Path) -> Example:
        pixels_HW3 = last_image(image)
        return Example(
            id=0, name=str(image), image=pixels_HW3, mask=open_mask(mask, *pixels_HW3.shape[:2])
        )

    return open_example

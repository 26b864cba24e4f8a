"""A user's own set as JSON lines: an image, and optionally a mask, a sentence and an answer each."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from segr1_jax.data.file_entries import Entry
from segr1_jax.data.json_lines import read_records
from segr1_jax.data.truth_masks import MaskFile


def manifest_entries(path: Path) -> Iterator[Entry]:
    """The samples of a manifest; its paths are relative to it.

    Raises UserError, when its turn comes, for a line that is malformed.
    """
    names = _SampleNames()
    for _, record in read_records(
        path, paths=("image",), optional=("mask", "instruction", "answer")
    ):
        truth = MaskFile(path.parent / record["mask"]) if record.get("mask") else None
        yield Entry(
            names.next_of(record["image"]),
            path.parent / record["image"],
            truth,
            record.get("instruction") or None,
            record.get("answer") or None,
        )


class _SampleNames:
    """Names of a manifest's samples: the path of the image, numbered from its second sentence on.

    Two spellings of a path (`a.jpg`, `./a.jpg`) are one image. No two samples have one name.
    """

    def __init__(self):
        self._taken: set[str] = set()
        self._numbers: dict[str, Iterator[int]] = {}

    def next_of(self, image: str) -> str:
        name = path = os.path.normpath(image)
        numbers = self._numbers.setdefault(path, itertools.count(2))
        # A loop, for an image may be called as the second sentence about another one is.
        while name in self._taken:
            name = f"{path}-{next(numbers)}"
        self._taken.add(name)
        return name

"""Manifests: JSON lines of an image each, with an optional mask, sentence and answer."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from segr1_jax.data.file_entries import Entry
from segr1_jax.data.json_lines import read_records
from segr1_jax.data.truth_masks import MaskFile


def manifest_entries(path: Path) -> Iterator[Entry]:
    """Yield the samples of a manifest; its paths are relative to it.

    Raises:
        UserError: a line is malformed; raised when the line is reached.
    """
    names = _SampleNames()
    for _, record in read_records(
        path, paths=("image",), optional=("mask", "instruction", "answer")
    ):
        truth = MaskFile(path.parent / record["mask"]) if record.get("mask") else None
        yield Entry(
            name=names.next_of(record["image"]),
            image=path.parent / record["image"],
            truth=truth,
            instruction=record.get("instruction") or None,
            answer=record.get("answer") or None,
        )


class _SampleNames:
    """Names of samples: the path of the image, with a number from its second sentence on.

    Two spellings of a path (`a.jpg`, `./a.jpg`) are one image. No two samples have one name.
    """

    def __init__(self):
        self._taken: set[str] = set()
        self._numbers: dict[str, Iterator[int]] = {}

    def next_of(self, image: str) -> str:
        name = path = os.path.normpath(image)
        numbers = self._numbers.setdefault(path, itertools.count(2))
        # The path of another image may equal a numbered name.
        while name in self._taken:
            name = f"{path}-{next(numbers)}"
        self._taken.add(name)
        return name

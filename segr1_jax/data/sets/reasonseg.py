"""ReasonSeg: photos with a question or phrase, polygons of the target and of regions to be ignored.

Layout (paper.md 4): ReasonSeg/<split>/NAME.jpg and NAME.json. Every image is one sample with the first text, as LISA evaluates, and
labels are read as in its utils/data_processing.py; the reference code draws images at random, and counts what is to be ignored as
background (metrics/sample_protocol.py).
"""

import json
from pathlib import Path
from typing import Any

from segr1_jax.data.file_entries import Entry, FileSource, pictures_by_stem
from segr1_jax.data.sets.published import PublishedSet, require_folder
from segr1_jax.data.truth_masks import Polygon, Polygons, Unusable, require_corners
from segr1_jax.errors import UserError

FOLDER = "ReasonSeg"
SPLITS = {"train": 239, "val": 200, "test": 779}
NOTE, IGNORED = "flag", "ignore"  # the whole label of a shape; a part of it. All others are targets
ENCODINGS = ("utf-8-sig", "cp1252")


def read_reasonseg(root: Path, split: str) -> FileSource:
    """One sample per photo, named by its stem. Raises UserError for a missing or empty split."""
    folder = require_folder(root / FOLDER / split, SPLITS)
    images = pictures_by_stem(str(folder), folder)
    if not images:
        raise UserError(
            str(folder), expected="at least one photo", got="none", remedy="copy the files there"
        )
    return FileSource([_entry(stem, path) for stem, path in images.items()])


def _entry(stem: str, image: Path) -> Entry:
    path = image.with_suffix(".json")
    try:
        record = json.loads(_text(path))
        text, shapes = record["text"][0].strip(), record["shapes"]
        polygons = [
            Polygon(_corners(shape), IGNORED not in label)
            for shape in shapes
            if (label := shape["label"].lower()) != NOTE
        ]
        if not text:
            raise ValueError("an empty text")
        question = bool(record["is_sentence"])
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        RecursionError,
    ) as error:
        got = (
            "no such file"
            if isinstance(error, FileNotFoundError)
            else f"{type(error).__name__}: {error}"
        )
        fault = UserError(
            str(path),
            expected="text, is_sentence and shapes of ReasonSeg",
            got=got,
            remedy="copy the file again",
        )
        return Entry(stem, image, Unusable(fault))
    return Entry(
        stem, image, Polygons(str(path), tuple(polygons)), instruction=_request(text, question)
    )


def _corners(shape: dict) -> tuple[tuple[float, float], ...]:
    return tuple(map(tuple, require_corners(shape["points"]).tolist()))


def _request(text: str, question: bool) -> str:
    """What follows "Identify and segment": a phrase as it is, a whole sentence as what is asked for."""
    return f"what this asks for: {text}" if question else f"{text}."


def _text(path: Path) -> Any:
    data = path.read_bytes()
    for encoding in ENCODINGS[:-1]:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode(ENCODINGS[-1])


REASONSEG = PublishedSet("ReasonSeg", FOLDER, "reasoning", SPLITS, read_reasonseg)

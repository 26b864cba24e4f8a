"""ReasonSeg: photos with a question or phrase, polygons of the target and of regions to ignore.

Layout: ReasonSeg/<split>/NAME.jpg and NAME.json. Every image is one sample with its first text, as
in LISA's evaluation, and labels are read as in LISA's utils/data_processing.py. The reference code
of Seg-R1 samples images at random and counts ignored regions as background
(metrics/sample_protocol.py).
"""

import json
from pathlib import Path

from segr1_jax.data.file_entries import Entry, FileSource, pictures_by_stem
from segr1_jax.data.sets.published import PublishedSet, require_folder
from segr1_jax.data.truth_masks import Polygon, Polygons, Unusable, require_corners
from segr1_jax.errors import UserError

FOLDER = "ReasonSeg"
SPLITS = {"train": 239, "val": 200, "test": 779}
NOTE = "flag"  # label of a shape that is not a region
IGNORED = "ignore"  # part of the label of a region to ignore; all other shapes are targets
ENCODINGS = ("utf-8-sig", "cp1252")


def read_reasonseg(root: Path, split: str) -> FileSource:
    """Read one sample per photo, named by its stem.

    Raises UserError for a missing or empty split.
    """
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
        text = record["text"][0].strip()
        polygons = [
            Polygon(_corners(shape), IGNORED not in label)
            for shape in record["shapes"]
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
        is_missing = isinstance(error, FileNotFoundError)
        fault = UserError(
            str(path),
            expected="text, is_sentence and shapes of ReasonSeg",
            got="no such file" if is_missing else f"{type(error).__name__}: {error}",
            remedy="copy the file again",
        )
        return Entry(stem, image, Unusable(fault))
    truth = Polygons(str(path), tuple(polygons))
    return Entry(stem, image, truth, instruction=_request(text, question))


def _corners(shape: dict) -> tuple[tuple[float, float], ...]:
    return tuple(map(tuple, require_corners(shape["points"]).tolist()))


def _request(text: str, question: bool) -> str:
    """Return the text after "Identify and segment": a phrase itself, or a question announced."""
    return f"what this asks for: {text}" if question else f"{text}."


def _text(path: Path) -> str:
    """Decode a file with the first of ENCODINGS that fits."""
    data = path.read_bytes()
    for encoding in ENCODINGS[:-1]:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode(ENCODINGS[-1])


REASONSEG = PublishedSet(
    title="ReasonSeg", folder=FOLDER, kind="reasoning", counts=SPLITS, read=read_reasonseg
)

"""Hashes of samples by content, independent of names, paths and times.

Hashing the file of a photo of 6 megapixels takes 4 ms, decoding it takes 100 ms. Samples are hashed
where they are read anyway, so the bytes come from the page cache and not from the disk.
"""

import dataclasses
import hashlib
from pathlib import Path

from segr1_jax.data.file_entries import Entry, FileSource
from segr1_jax.data.pictures import Picture
from segr1_jax.data.sources import First, Source, Spread
from segr1_jax.data.truth_masks import Truth
from segr1_jax.errors import UserError

DIGEST_BYTES = 16
PLACE = "where"  # the field of a truth that names its file


def sample_digest(source: Source, index: int) -> str:
    """Return a hash of picture, sentence, mask and ignored pixels of a sample.

    A missing file has a hash too.
    """
    if isinstance(source, Spread | First):
        return sample_digest(source.source, source.origin(index))
    if isinstance(source, FileSource):
        return _entry_digest(source.entries[index])
    return text_digest(f"{source!r} {index}")


def text_digest(text: str) -> str:
    """Return a hash of any text, including lone surrogates, which names of files may hold."""
    content = text.encode("utf-8", "backslashreplace")
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


def file_digest(path: Path) -> str:
    """Return a hash of the bytes of a file, or of the error where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, _blake).hexdigest()
    except OSError as error:
        return text_digest(type(error).__name__)


def _blake():
    return hashlib.blake2b(digest_size=DIGEST_BYTES)


def _entry_digest(entry: Entry) -> str:
    truth = None if entry.truth is None else _truth_parts(entry.truth)
    return text_digest(repr((_picture_digest(entry.image), entry.instruction, truth)))


def _picture_digest(picture: Picture) -> str:
    """Return the hash of a file or of a cell; equal contents have equal hashes."""
    if isinstance(picture, Path):
        return file_digest(picture)
    try:
        return hashlib.file_digest(picture.open(), _blake).hexdigest()
    except UserError as error:
        return text_digest(type(error).__name__)


def _truth_parts(truth: Truth) -> list[str]:
    # Class and field names, and the repr of the values, are part of the hash.
    values = [
        getattr(truth, field.name) for field in dataclasses.fields(truth) if field.name != PLACE
    ]
    parts = [
        _picture_digest(value) if isinstance(value, Picture) else repr(value) for value in values
    ]
    return [type(truth).__name__, *parts]

"""Two hundred damaged pictures, through the reader of training and evaluation."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segr1_jax.data.config import DataConfig
from segr1_jax.data.pipeline import Skipped, sweep
from segr1_jax.data.sources import open_source
from segr1_jax.types import Frame, Prompt

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "ICO")
SEED, PER_FORMAT = 7, 24
SIDE = 40


def spoil(rng: np.random.Generator, content: bytes, number: int) -> bytes:
    """Damage a file: truncate it, flip header bits, overwrite, double bytes, or write noise."""
    data = bytearray(content)
    where = int(rng.integers(len(data)))
    match number % 5:
        case 0:
            return bytes(data[:where])
        case 1:
            for _ in range(8):
                data[int(rng.integers(min(64, len(data))))] ^= 1 << int(rng.integers(8))
        case 2:
            data[where : where + 40] = rng.bytes(40)
        case 3:
            data[where:where] = data[where : where + 100]
        case 4:
            data[: where // 4] = rng.bytes(where // 4)
    return bytes(data)


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


@pytest.fixture
def hostile(tmp_path) -> Path:
    rng = np.random.default_rng(SEED)
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    picture = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    for format_ in FORMATS:
        picture.save(tmp_path / "whole", format_)
        whole = (tmp_path / "whole").read_bytes()
        for number in range(PER_FORMAT):
            (tmp_path / f"images/{format_.lower()}{number:02}.{format_.lower()}").write_bytes(
                spoil(rng, whole, number)
            )
    others = {
        "empty.png": b"",
        "text.jpg": b"<script>alert(1)</script>",
        "bomb.png": bomb(),
        "zeros.bmp": bytes(500),
    }
    for name, content in others.items():
        (tmp_path / "images" / name).write_bytes(content)
    for mode, name in (
        ("F", "float.tiff"),
        ("I", "int.tiff"),
        ("CMYK", "cmyk.jpg"),
        ("LA", "la.png"),
    ):
        Image.new(mode, (SIDE, SIDE)).save(tmp_path / "images" / name)
    for image in (tmp_path / "images").iterdir():
        Image.fromarray(np.full((SIDE, SIDE), 255, np.uint8)).save(
            tmp_path / f"masks/{image.stem}.png"
        )
    return tmp_path


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_each_is_read_or_listed_with_its_reason(hostile):
    source = open_source(
        DataConfig(kind="folder", images=str(hostile / "images"), masks=str(hostile / "masks"))
    )
    assert len(source) == len(FORMATS) * PER_FORMAT + 8 == 200
    skipped, read = Skipped(), []

    def build(example) -> Prompt:
        assert example.image.dtype == np.uint8
        assert example.image.shape == (*example.mask.shape, 3)
        read.append(example.name)
        nothing = np.zeros((0,), np.int32)
        empty = (
            np.zeros((0, 0, 0), np.uint8),
            np.zeros((3, 256), np.float32),
            np.zeros((0, 0, 2), np.int32),
            np.zeros((0, 0), bool),
            nothing,
        )
        return Prompt(
            example.id,
            nothing,
            np.zeros((3, 0), np.int32),
            0,
            nothing,
            *empty,
            Frame(1, 1),
            example.frame,
        )

    answered = [
        sample.example.name
        for batch in sweep(source, build, batch=16, skipped=skipped)
        for sample in batch
    ]
    assert set(answered) | set(skipped.reasons) == set(source.names)
    assert len(answered) + len(skipped) == 200
    assert len(skipped) > 50, "spoiled files are found out"
    assert {"empty", "text", "bomb", "float", "int"} <= set(skipped.reasons)
    assert {"cmyk", "la"} <= set(answered)
    assert all("images/" in reason or "masks/" in reason for reason in skipped.reasons.values())

"""Which picture files are opened, through each reader of the package."""

from pathlib import Path

import numpy as np
import PIL.EpsImagePlugin
import pytest
from PIL import Image

from segr1_jax.common.picture_formats import MOST_PIXELS
from segr1_jax.data.images import open_image, open_mask, upright_size
from segr1_jax.errors import UserError
from segr1_jax.infer.demo_answers import Demo
from segr1_jax.infer.image_paths import named_pictures
from segr1_jax.infer.responder import Responder
from segr1_jax.metrics.predictions import read_map

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
READERS = {
    "image": open_image,
    "mask": lambda path: open_mask(path, 8, 8),
    "size": lambda path: upright_size(path, "image"),
    "prediction": read_map,
}


class NoPolicy(Responder):
    def __init__(self):
        pass

    def answerer(self):
        return None


def from_demo(path: Path) -> str:
    return Demo(NoPolicy(), path.parent).answer(str(path), "", 0).status


@pytest.fixture
def ghostscript(tmp_path, monkeypatch) -> Path:
    """A `gs` in PATH; the file returned exists once it has been started."""
    started, program = tmp_path / "started", tmp_path / "bin/gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {started}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setattr(PIL.EpsImagePlugin, "gs_binary", None)
    return started


@pytest.fixture
def eps(tmp_path) -> Path:
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.eps")
    return (tmp_path / "photo.eps").rename(tmp_path / "photo.jpg")


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_postscript_named_jpg_is_refused(eps, ghostscript, reader):
    with pytest.raises(UserError, match=r"photo\.jpg: expected a readable .*, got another format"):
        reader(eps)
    assert not ghostscript.exists()


def test_demo_refuses_postscript(eps, ghostscript):
    assert "got another format" in from_demo(eps)
    assert not ghostscript.exists()


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_heic_is_refused_with_what_to_do(tmp_path, reader):
    (tmp_path / "photo.heic").write_bytes(HEIC)
    with pytest.raises(UserError, match=r"a HEIC picture\. Remedy: convert it to JPEG or PNG"):
        reader(tmp_path / "photo.heic")


def test_a_folder_of_heic_is_no_empty_folder(tmp_path):
    (tmp_path / "photo.HEIC").write_bytes(HEIC)
    assert named_pictures([str(tmp_path)], None).names == ["photo"]


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("width", [10_000, 20_000])  # Pillow itself refuses the second
def test_too_many_pixels_are_refused_from_the_header(tmp_path, reader, width):
    Image.new("1", (width, MOST_PIXELS // 10_000 + 1)).save(tmp_path / "large.png")
    with pytest.raises(UserError, match=r"large\.png: .*at most 89 megapixels.*scale it down"):
        reader(tmp_path / "large.png")


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_accepted_formats(tmp_path, format_):
    frames = {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]}
    picture = Image.new("RGB", (8, 8), (250, 250, 250))
    picture.save(tmp_path / "picture", format_, **(frames if format_ == "MPO" else {}))
    image_HW3 = open_image(tmp_path / "picture")
    assert image_HW3.shape == (8, 8, 3)
    assert np.abs(image_HW3.astype(int) - 250).max() <= 3

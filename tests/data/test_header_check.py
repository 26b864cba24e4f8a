"""The check before training reads headers alone, whatever the format."""

import numpy as np
import pytest
from PIL import Image, ImageFile

from segr1_jax.data.images import upright_size


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
def test_sizes_need_no_pixels(tmp_path, monkeypatch, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    # Rotated by a quarter.
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"bmp": {}, "tif": {"tiffinfo": {0x0112: 6}}}.get(suffix, {"exif": exif})
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(pixels).save(path, **options)

    def load(self):
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert upright_size(path, "image") == ((40, 30) if suffix == "bmp" else (30, 40))


def test_a_png_without_orientation_is_not_decoded(tmp_path, monkeypatch):
    path = tmp_path / "photo.png"
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(path)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    assert upright_size(path, "image") == (40, 30)

"""What counts as a picture wherever one is opened."""

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from segr1_jax import picture_files
from segr1_jax.apply.pictures import named_pictures
from segr1_jax.data.images import open_image, open_mask, upright_size
from segr1_jax.errors import UserError
from segr1_jax.eval.predictions import read_map

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
OPENERS = {
    "image": open_image,
    "mask": lambda path: open_mask(path, 10, 10),
    "size": lambda path: upright_size(path, "image"),
    "prediction": read_map,
}


@pytest.mark.parametrize("opener", OPENERS)
def test_postscript_named_jpg_starts_nothing(tmp_path, monkeypatch, opener):
    def started(*_, **__):
        pytest.fail("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    path = tmp_path / "photo.jpg"
    path.write_bytes(EPS)
    with pytest.raises(UserError, match=r"photo\.jpg: expected .* PNG, JPEG, WebP"):
        OPENERS[opener](path)


@pytest.mark.parametrize("opener", OPENERS)
def test_heic_is_named_with_its_remedy(tmp_path, opener):
    path = tmp_path / "photo.jpg"
    path.write_bytes(HEIC)
    with pytest.raises(UserError, match=r"HEIC.*convert it to JPEG or PNG"):
        OPENERS[opener](path)


@pytest.mark.parametrize("opener", OPENERS)
def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path, monkeypatch, opener):
    monkeypatch.setattr(picture_files, "MAX_PIXELS", 10_000)
    path = tmp_path / "large.png"
    Image.new("L", (101, 100)).save(path)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(UserError, match=r"large\.png: expected at most 0 megapixels, got 101x100"):
        OPENERS[opener](path)


@pytest.mark.parametrize("name", picture_files.FORMATS)
def test_every_format_of_the_list_is_read(tmp_path, name):
    path = tmp_path / "picture"
    Image.fromarray(np.full((10, 10, 3), 200, np.uint8)).save(path, name)
    assert open_image(path).shape == (10, 10, 3)


def test_a_folder_offers_only_what_can_be_opened(tmp_path):
    for name in ("a.jpg", "b.eps", "c.pdf", "d.PNG", "e.heic"):
        (tmp_path / name).touch()
    assert sorted(named_pictures([str(tmp_path)], None).names) == ["a", "d"]


@pytest.mark.parametrize("levels", [255, 65535])
def test_a_soft_map_keeps_its_scale(tmp_path, levels):
    """A map of 16 bits is scaled by its range; Pillow's own conversion clips it to white."""
    truth_HW = np.linspace(0, 1, 256).reshape(16, 16)
    values = np.round(truth_HW * levels)
    Image.fromarray(values.astype(np.uint8 if levels == 255 else np.uint16)).save(
        tmp_path / "m.png"
    )
    np.testing.assert_array_equal(read_map(tmp_path / "m.png"), np.round(truth_HW * 255))


def test_a_mask_of_sixteen_bits_is_one(tmp_path):
    mask_HW = np.arange(100).reshape(10, 10) % 3 == 0
    for true in (1, 65535):
        Image.fromarray(mask_HW.astype(np.uint16) * np.uint16(true)).save(tmp_path / "m.png")
        np.testing.assert_array_equal(read_map(tmp_path / "m.png"), mask_HW * 255)


def test_a_map_of_floats_is_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "m.tiff")
    with pytest.raises(UserError, match="8 or 16 bits"):
        read_map(tmp_path / "m.tiff")

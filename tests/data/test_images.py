import cv2
import numpy as np
import pytest
from PIL import Image
from py_sod_metrics.utils import validate_and_normalize_input

from segr1_jax.data.images import open_image, open_mask, upright_size
from segr1_jax.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 256, (10, 14, 3), dtype=np.uint8)


def save(path, array, mode=None, **options):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colors_are_kept(tmp_path, mode):
    np.testing.assert_array_equal(open_image(save(tmp_path / "a.png", NOISE, mode)), NOISE)


def test_transparency_lies_on_white(tmp_path):
    alpha = np.full((10, 14, 1), 255, np.uint8)
    alpha[:5] = 0
    image = open_image(save(tmp_path / "a.png", np.concatenate([NOISE, alpha], axis=2)))
    assert (image[:5] == 255).all()
    np.testing.assert_array_equal(image[5:], NOISE[5:])


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P"])
def test_other_modes_become_rgb(tmp_path, mode):
    image = open_image(save(tmp_path / "a.png", NOISE, mode))
    assert image.shape == (10, 14, 3)
    assert image.dtype == np.uint8


def test_sixteen_bit_gray_keeps_its_high_byte(tmp_path):
    values = np.arange(140, dtype=np.uint16).reshape(10, 14) * 460
    image = open_image(save(tmp_path / "a.png", values))
    np.testing.assert_array_equal(image[..., 1], values >> 8)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", NOISE, exif=exif)
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    np.testing.assert_array_equal(open_image(path), np.rot90(NOISE, turns))
    assert upright_size(path, "image") == np.rot90(NOISE, turns).shape[1::-1]


@pytest.mark.parametrize(
    ("true", "mode"), [(255, None), (129, None), (1, None), (255, "1"), (255, "RGB"), (255, "P")]
)
def test_mask_conventions(tmp_path, true, mode):
    mask = NOISE[..., 0] > 100
    path = save(tmp_path / "m.png", (mask * true).astype(np.uint8), mode)
    np.testing.assert_array_equal(open_mask(path, 10, 14), mask)


@pytest.mark.parametrize("deep", [False, True], ids=["8 bits", "16 bits"])
def test_a_truth_is_cut_where_pysodmetrics_cuts_it(tmp_path, deep):
    """Gray 128 is background; a reader of 8 bits such as OpenCV keeps the high byte of 16."""
    gray = np.array([[0, 127, 128, 129, 255]], np.uint8).repeat(3, 0)
    path = save(tmp_path / "m.png", gray.astype(np.uint16) * 256 + 255 if deep else gray)
    seen = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(seen, gray)
    _, expected = validate_and_normalize_input(np.zeros_like(seen), seen)
    np.testing.assert_array_equal(open_mask(path, 3, 5), expected)
    np.testing.assert_array_equal(expected[0], [False, False, False, True, True])


def test_bad_files_are_named(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    whole = save(tmp_path / "whole.png", NOISE).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:100])
    for name in ("text.png", "cut.png", "absent.png"):
        with pytest.raises(UserError, match=name):
            open_image(tmp_path / name)
    with pytest.raises(UserError, match=r"whole\.png.*14x10"):
        open_mask(tmp_path / "whole.png", 14, 10)

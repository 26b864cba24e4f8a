"""Predictions as gray pictures: their bit depths."""

import numpy as np
import pytest
from PIL import Image

from segr1_jax.errors import UserError
from segr1_jax.metrics.predictions import read_map


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

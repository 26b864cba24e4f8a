import dataclasses

import numpy as np
import pytest
import torch
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from segr1_jax.prompt.windows import window_layout


@pytest.mark.parametrize("window", [56, 112])
@pytest.mark.parametrize("units", [(1, 1), (4, 4), (6, 6), (3, 9), (5, 7), (27, 27), (8, 4)])
def test_filled_slots_follow_the_reference_order(units, window, vision):
    rows, columns = units
    layout = window_layout(rows * 28, columns * 28, dataclasses.replace(vision, window=window))
    grid = torch.tensor([[1, 2 * rows, 2 * columns]])
    index, boundaries = get_vision_window_index(grid, 2, window, 14)

    expected_patches = (index[:, None] * 4 + torch.arange(4)).reshape(-1).numpy()
    np.testing.assert_array_equal(layout.patch_index[layout.mask], expected_patches)
    np.testing.assert_array_equal(layout.mask.sum(axis=1), np.diff(boundaries.numpy()))
    assert (layout.patch_index[~layout.mask] == -1).all()

    positions = get_vision_position_ids(grid, 2).numpy()
    np.testing.assert_array_equal(layout.positions[layout.mask], positions[expected_patches])
    assert (layout.positions[~layout.mask] == 0).all()

    # The merged output of the padded windows, read at `unit_row`, comes back in raster order.
    merged = layout.patch_index.reshape(-1, 4)[layout.unit_row]
    np.testing.assert_array_equal(merged, np.arange(rows * columns * 4).reshape(-1, 4))
    assert layout.patch_index.shape[1] == (window // 14) ** 2


def test_layouts_are_shared_and_read_only(vision):
    layout = window_layout(84, 56, vision)
    assert layout is window_layout(84, 56, vision)
    assert not any(array.flags.writeable for array in vars(layout).values())
    assert layout.patch_index.dtype == layout.unit_row.dtype == np.int32

import numpy as np
import pytest
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from segr1_jax.errors import UserError
from segr1_jax.prompt.patches import patchify, require_frame, stretch


@pytest.mark.parametrize("size", [(28, 28), (56, 140), (252, 84), (168, 168)])
def test_patches_equal_the_reference_processor(size, vision):
    image = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), dtype=np.uint8)
    pinned = {"shortest_edge": size[0] * size[1], "longest_edge": size[0] * size[1]}
    oracle = Qwen2VLImageProcessorPil(size=pinned)(image, return_tensors="np")
    np.testing.assert_array_equal(patchify(image, vision), oracle["pixel_values"])
    assert oracle["image_grid_thw"].tolist() == [[1, size[0] // 14, size[1] // 14]]


@pytest.mark.parametrize("native", [(280, 364), (97, 201), (30, 59)])
def test_stretch_is_the_reference_resize(native, vision):
    image = np.random.default_rng(1).integers(0, 256, (*native, 3), dtype=np.uint8)
    oracle = Qwen2VLImageProcessorPil(size={"shortest_edge": 84 * 84, "longest_edge": 196 * 196})(
        image, return_tensors="np"
    )
    _, rows, columns = oracle["image_grid_thw"][0].tolist()
    assert native != (rows * 14, columns * 14)
    np.testing.assert_array_equal(
        patchify(stretch(image, rows * 14, columns * 14), vision), oracle["pixel_values"]
    )


@pytest.mark.parametrize("size", [(28, 30), (0, 28), (14, 28)])
def test_frames_off_the_grid_are_named(size, vision):
    with pytest.raises(UserError, match="multiples of 28 pixels"):
        require_frame(*size, vision)

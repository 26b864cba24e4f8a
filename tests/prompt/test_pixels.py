import numpy as np
import pytest
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from segr1_jax.errors import UserError
from segr1_jax.prompt.pixels import patchify, require_frame, stretch


@pytest.mark.parametrize("size", [(28, 28), (56, 140), (252, 84), (168, 168)])
def test_patches_equal_the_reference_processor(size, vision):
    image = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), dtype=np.uint8)
    pinned = {"shortest_edge": size[0] * size[1], "longest_edge": size[0] * size[1]}
    oracle = Qwen2VLImageProcessorPil(size=pinned)(image, return_tensors="np")
    np.testing.assert_array_equal(patchify(image, vision), oracle["pixel_values"])
    assert oracle["image_grid_thw"].tolist() == [[1, size[0] // 14, size[1] // 14]]


@pytest.mark.parametrize(("native", "frame"), [((280, 364), (140, 168)), ((97, 100), (112, 112))])
def test_stretch_is_the_reference_resize(native, frame, vision):
    image = np.random.default_rng(1).integers(0, 256, (*native, 3), dtype=np.uint8)
    pinned = {"shortest_edge": frame[0] * frame[1], "longest_edge": frame[0] * frame[1]}
    oracle = Qwen2VLImageProcessorPil(size=pinned)(image, return_tensors="np")
    if oracle["image_grid_thw"].tolist() != [[1, frame[0] // 14, frame[1] // 14]]:
        pytest.fail("the oracle chose another size: pick a frame of the native aspect ratio")
    np.testing.assert_array_equal(patchify(stretch(image, *frame), vision), oracle["pixel_values"])


@pytest.mark.parametrize("size", [(28, 30), (0, 28), (14, 28)])
def test_frames_off_the_grid_are_named(size, vision):
    with pytest.raises(UserError, match="multiples of 28 pixels"):
        require_frame(*size, vision)

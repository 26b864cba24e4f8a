"""From an image file to token ids and patches, against transformers' processor.

The tokenizer is the real one; sizes and aspect ratios vary.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from tower_values import tower_values
from transformers import AutoTokenizer, Qwen2_5_VLProcessor, Qwen2VLVideoProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    smart_resize as their_smart_resize,
)

from segr1_jax.data.images import open_image
from segr1_jax.errors import UserError
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.prompt.config import PromptConfig
from segr1_jax.prompt.patches import smart_resize, stretch
from segr1_jax.prompt.tokenizer import Tokenizer
from segr1_jax.prompt.wording import messages
from segr1_jax.types import Example

IMAGES = 200
LOW, HIGH = (
    56 * 56,
    252 * 252,
)  # pixels; small, so that most images are resized and the test is quick
MODES = ("RGB", "L", "P", "RGBA", "LA", "1", "CMYK")
EXIF_ORIENTATION, ORIENTATIONS = 0x0112, (1, 3, 6, 8)
SIDES = st.integers(1, 5000)


@settings(max_examples=2000, deadline=None)
@given(
    height=SIDES,
    width=SIDES,
    unit=st.sampled_from([28, 32]),
    low=st.integers(1, 10**6),
    more=st.integers(784, 10**7),
)
def test_smart_resize_is_theirs(height, width, unit, low, more):
    arguments = (height, width, unit, low, low + more)
    if max(height, width) / min(height, width) <= 200:
        assert smart_resize(*arguments) == their_smart_resize(*arguments)
    else:
        with pytest.raises(ValueError, match="aspect ratio"):
            their_smart_resize(*arguments)
        with pytest.raises(UserError, match=rf"image: .*at most 200, got {width}x{height}"):
            smart_resize(*arguments)


class RecordingProcessor(Qwen2VLImageProcessorPil):
    """Keeps the pictures between resizing and normalizing."""

    def resize(self, *arguments, **options):
        resized = super().resize(*arguments, **options)
        self.resized = [*getattr(self, "resized", []), resized.transpose(1, 2, 0)]
        return resized


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files of noise of log-uniform area and aspect ratio, in every mode, some of them turned.

    Two are long, one is already in place.
    """
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("pictures")
    sizes = [(28, 2800), (4, 700), (140, 84)]
    while len(sizes) < IMAGES:
        side, ratio = np.exp(rng.uniform(np.log(12), np.log(500))), np.exp(rng.uniform(-2, 2))
        sizes.append((max(1, round(side * ratio**0.5)), max(1, round(side / ratio**0.5))))
    return [
        save_noise(folder / f"{index}", rng, size, MODES[index % len(MODES)], index)
        for index, size in enumerate(sizes)
    ]


def save_noise(stem, rng, size, mode, index):
    """CMYK goes into a TIFF, the rest into PNG."""
    bands = {"RGBA": 4, "LA": 2, "L": 1, "CMYK": 4}.get(mode, 3)
    noise = rng.integers(0, 256, (*size, bands), dtype=np.uint8)
    image = (
        Image.fromarray(noise[..., 0])
        if bands == 1
        else Image.frombytes(mode if bands != 3 else "RGB", size[::-1], noise.tobytes())
    )
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = ORIENTATIONS[index % len(ORIENTATIONS)]
    path = stem.with_suffix(".tiff" if mode == "CMYK" else ".png")
    image.convert(mode).save(path, exif=exif)
    return path


def upright(path):
    """As a user of transformers would open it."""
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image)


@pytest.fixture(scope="module")
def processor(qwen_directory):
    template = (qwen_directory / "chat_template.jinja").read_text()
    tokenizer = AutoTokenizer.from_pretrained(qwen_directory)
    images = RecordingProcessor(min_pixels=LOW, max_pixels=HIGH)
    return Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=template)


@pytest.fixture(scope="module")
def builder(qwen_directory, vision):
    config = PromptConfig(frame=0, min_pixels=LOW, max_pixels=HIGH, max_tokens=1152)
    return PromptBuilder(Tokenizer(qwen_directory), vision, config)


def assert_same_prompt(prompt, theirs):
    """Token ids and grids equal, patches equal bit for bit (the issue asks for 1e-6)."""
    np.testing.assert_array_equal(prompt.token_ids, theirs["input_ids"][0])
    values = tower_values(prompt)
    units = values.reshape(-1, 4 * values.shape[-1])[prompt.image_index[prompt.image_index >= 0]]
    np.testing.assert_array_equal(units.reshape(-1, values.shape[-1]), theirs["pixel_values"])
    grids = [
        prompt.patch_positions[prompt.window_image == image].max(axis=(0, 1)) + 1
        for image in range(prompt.window_image.max() + 1)
    ]
    assert [[1, *grid] for grid in grids] == theirs["image_grid_thw"].tolist()


def test_one_image_per_prompt(pictures, processor, builder):
    for index, path in enumerate(pictures):
        example = Example(
            index,
            path.name,
            open_image(path),
            None,
            [None, "the red fish, left of the 2nd stone"][index % 2],
        )
        processor.image_processor.resized = []
        text = processor.apply_chat_template(
            messages("rl", example.instruction), add_generation_prompt=True
        )
        theirs = processor(text=[text], images=[upright(path)], return_tensors="np")
        prompt = builder.build(example)
        frame = prompt.model_frame
        (resized,) = processor.image_processor.resized
        assert resized.dtype == np.uint8
        np.testing.assert_array_equal(stretch(example.image, frame.height, frame.width), resized)
        assert_same_prompt(prompt, theirs)


def test_several_images_per_prompt(pictures, processor, builder):
    for first in range(0, 40, 4):
        paths = pictures[first : first + 2 + first % 3]
        content = [
            part
            for path in paths
            for part in ({"type": "image"}, {"type": "text", "text": f"is {path.name}. "})
        ]
        talk = [
            {"role": "system", "content": "Compare."},
            {"role": "user", "content": [*content, {"type": "text", "text": "Which?"}]},
        ]
        text = processor.apply_chat_template(talk, add_generation_prompt=True)
        theirs = processor(
            text=[text], images=[upright(path) for path in paths], return_tensors="np"
        )
        prompt = builder.compose("comparison", talk, [open_image(path) for path in paths])
        assert_same_prompt(prompt, theirs)


def test_the_published_pixel_limits_on_a_photo(vision):
    """A phone's photo, in a range of sizes that no small image reaches."""
    image = np.random.default_rng(1).integers(0, 256, (1512, 2016, 3), dtype=np.uint8)
    theirs = RecordingProcessor(min_pixels=3136, max_pixels=12845056)
    grid = theirs(
        Image.fromarray(image), return_tensors="np", do_rescale=False, do_normalize=False
    )["image_grid_thw"]
    height, width = smart_resize(1512, 2016, vision.unit, 3136, 12845056)
    assert grid.tolist() == [[1, height // vision.patch, width // vision.patch]]
    np.testing.assert_array_equal(stretch(image, height, width), theirs.resized[0])

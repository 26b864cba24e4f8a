"""`segr1_jax.score` and `Scorer` against the terms computed here, and the interface itself."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segr1_jax
from segr1_jax.api.pictures import as_image, as_mask
from segr1_jax.data.config import DataConfig
from segr1_jax.data.images import open_image, open_mask
from segr1_jax.data.synthetic import generate
from segr1_jax.errors import UserError
from segr1_jax.reward.scores import iou, s_measure
from segr1_jax.reward.sidecar.model_files import NANO_CHECKPOINT, NANO_CONFIG, build_model
from segr1_jax.reward.sidecar.sam2_model import Sam2
from segr1_jax.reward.transport.prompts_block import WirePrompt

ROOT = Path(__file__).parents[2]
SIDE, FRAME = 168, 336
TEXT = "<think>it lies there</think> <bbox>[40,40,300,300]</bbox>, <points>[[168,168]]</points>, "
TEXT += "<labels>[1]</labels>"


def test_rewards_are_those_of_the_formula():
    example = generate(DataConfig(size=SIDE, seed=4), 3)
    rewards = segr1_jax.score(
        [TEXT, "no answer"], example.image, example.mask, overrides=[f"prompt.frame={FRAME}"]
    )
    sam2 = Sam2(build_model(NANO_CONFIG, NANO_CHECKPOINT, postprocessing=False))
    box = np.array([20, 20, 150, 150], np.float32)
    prompt = WirePrompt(box, np.array([[84, 84]], np.float32), np.array([1], np.int32))
    mask = sam2.decode(sam2.encode(example.image), [prompt])
    want = (iou(mask, example.mask), s_measure(mask, example.mask))
    assert (rewards[0].iou, rewards[0].s_measure) == want
    assert rewards[0].total == pytest.approx(1 + 0.7 * want[0] + 0.3 * want[1])
    assert (rewards[1].total, rewards[1].parse.value) == (0.0, "missing_think")


def test_pictures_of_every_form_are_those_of_their_files(tmp_path):
    example = generate(DataConfig(size=SIDE, seed=4), 3)
    image, mask = Image.fromarray(example.image), Image.fromarray(example.mask)
    # Orientation 6: a viewer turns the picture by 90 degrees.
    exif = Image.Exif()
    exif[0x0112] = 6
    image.crop((0, 0, SIDE, 100)).save(tmp_path / "turned.png", exif=exif)
    turned = open_image(tmp_path / "turned.png")
    assert turned.shape == (SIDE, 100, 3)
    np.testing.assert_array_equal(as_image(tmp_path / "turned.png"), turned)
    np.testing.assert_array_equal(as_image(Image.open(tmp_path / "turned.png")), turned)
    mask.save(tmp_path / "mask.png")
    want = open_mask(tmp_path / "mask.png", SIDE, SIDE)
    grays = example.mask.astype(np.uint8)
    for given in (str(tmp_path / "mask.png"), mask, example.mask, grays, grays * 255):
        np.testing.assert_array_equal(as_mask(given, SIDE, SIDE), want)
    np.testing.assert_array_equal(as_mask(grays * 255 // 2 + 64, SIDE, SIDE), want)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros((4, 4), bool), "with an object"),
        (np.ones((4, 4)), "float64"),
        (np.ones((4, 8), bool), "about its image's shape"),
    ],
)
def test_a_mask_that_cannot_be_used_is_named(mask, words):
    with pytest.raises(UserError, match=words):
        as_mask(mask, 4, 4)


def test_the_interface_is_what_the_package_lists_and_is_typed():
    stub = (ROOT / "segr1_jax/__init__.pyi").read_text()
    for name in segr1_jax.__all__:
        assert getattr(segr1_jax, name).__doc__
        assert f"import {name} as {name}" in stub
    assert set(segr1_jax.__all__) <= set(dir(segr1_jax))
    with pytest.raises(AttributeError, match="no attribute 'segment'"):
        assert segr1_jax.segment
    assert (ROOT / "segr1_jax/py.typed").exists()


def test_a_fault_of_the_configuration_needs_no_jax():
    code = (
        "import sys, segr1_jax\n"
        "try: segr1_jax.train('quickstart_gpo')\n"
        "except Exception as error: print(error)\n"
        "try: segr1_jax.train('quickstart_grpo', ['policy.path=absent'])\n"
        "except Exception as error: print(error)\n"
        "try: segr1_jax.Scorer(overrides=['reward.sam2_checkpoint=x', 'reward.sam2_config=y'])\n"
        "except Exception as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for words, line in zip(("quickstart_grpo?", "absent", "sam2_checkpoint"), lines, strict=True):
        assert words in line

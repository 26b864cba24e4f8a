"""`eval`, `predict` and `demo` make the masks of SAM2ImagePredictor also of large photos.

Only rewards are bounded by max_side.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sam2.sam2_image_predictor import SAM2ImagePredictor
from small_set import config_of

from segr1_jax.data.config import DataConfig
from segr1_jax.data.synthetic import generate
from segr1_jax.errors import UserError
from segr1_jax.eval.evaluate import run_eval
from segr1_jax.eval.rescore import run_rescore
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.infer.demo_answers import Demo
from segr1_jax.infer.predict import run_predict
from segr1_jax.infer.responder import responding
from segr1_jax.reward.scores import capped_size, resize_nearest
from segr1_jax.reward.sidecar.model_files import NANO_CHECKPOINT, NANO_CONFIG, build_model

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.usefixtures("compile_quickly", "one_device", "scripted"),
]

FRAME, SIZE = 168, (1100, 1500)  # pixels; height, width
BOX, POINT = (20, 20, 150, 150), (84, 84)  # of the scripted answer, in pixels of the frame
CAP = 1024  # reward.max_side


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A set of one large picture, and a policy."""
    folder = tmp_path_factory.mktemp("large")
    make_tiny_policy(folder / "tiny", seed=0)
    example = generate(DataConfig(size=FRAME, seed=9), 0)
    for part, pixels in (("images", example.image), ("masks", example.mask)):
        (folder / part).mkdir()
        Image.fromarray(pixels).resize(SIZE[::-1]).save(folder / part / "0.png")
    return folder


@pytest.fixture(scope="module")
def masks(photo):
    """The predictor's mask, and the one that it would make at the size of CAP, enlarged."""
    model = build_model(NANO_CONFIG, NANO_CHECKPOINT, postprocessing=False)
    predictor = SAM2ImagePredictor(model)
    predictor._bb_feat_sizes = [(model.image_size // stride,) * 2 for stride in (4, 8, 16)]
    predictor.set_image(np.asarray(Image.open(photo / "images/0.png")))
    scale = np.array(SIZE[::-1]) / FRAME
    (native,), _, logits = predictor.predict(
        [POINT * scale], [1], np.array(BOX) * np.tile(scale, 2), multimask_output=False
    )
    small_size = capped_size(SIZE, CAP)
    small = predictor._transforms.postprocess_masks(torch.tensor(logits)[None], small_size)[0, 0]
    return native.astype(bool), resize_nearest(small.numpy() > 0, SIZE)


def run_demo(config, source, out):
    with responding(config, source) as responder:
        shown = Demo(responder, out.parent).answer(config.eval_data.images + "/0.png", "", 0)
    out.mkdir()
    shown.files[0].rename(out / "0.png")


def run_answers(config, source, out):
    """The same answer, given as text."""
    answer = f"<think>t</think> <bbox>[{','.join(map(str, BOX))}]</bbox>"
    answer += f", <points>[[{POINT[0]},{POINT[1]}]]</points>, <labels>[1]</labels>"
    line = json.dumps({"name": "0", "answer": answer})
    (out.parent / "answers.jsonl").write_text(line + "\n")
    run_rescore(config, out.parent / "answers.jsonl", out, "standard")


COMMANDS = {
    "predict": lambda *where: run_predict(*where, count=1),
    "eval": lambda *where: run_eval(*where, "standard"),
    "demo": run_demo,
    "answers": run_answers,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_large_photo_has_the_predictors_mask(photo, masks, tmp_path, command):
    COMMANDS[command](config_of(photo), photo / "tiny", tmp_path / "out")
    (written,) = (tmp_path / "out").rglob("0.png")
    native, enlarged = masks
    found = np.asarray(Image.open(written)) > 0
    assert (native != enlarged).sum() > 100
    np.testing.assert_array_equal(found, native)


def test_masks_made_at_another_size_are_not_mixed_in(photo, tmp_path):
    out = tmp_path / "out"
    run_eval(config_of(photo), photo / "tiny", out, "standard")
    before = (out / "identity.json").read_text()
    # The bound is that of rewards: it changes no mask here.
    run_eval(config_of(photo, "reward.max_side=100"), photo / "tiny", out, "standard")
    assert (out / "identity.json").read_text() == before
    old = json.loads(before) | {"max_side": CAP}  # as an earlier version left it
    (out / "identity.json").write_text(json.dumps(old))
    with pytest.raises(UserError, match="other max_side"):
        run_eval(config_of(photo), photo / "tiny", out, "standard")

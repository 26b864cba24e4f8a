from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from random_prompts import random_prompt
from sam2.build_sam import build_sam2
from sam2.sam2_image_predictor import SAM2ImagePredictor

from segr1_jax.data.config import DataConfig
from segr1_jax.data.synthetic import generate
from segr1_jax.errors import UserError
from segr1_jax.reward.scores import iou, resize_nearest
from segr1_jax.reward.sidecar import sam2_model
from segr1_jax.reward.sidecar.model_files import NANO_CHECKPOINT, NANO_CONFIG, build_model
from segr1_jax.reward.sidecar.sam2_model import Sam2
from segr1_jax.reward.transport.prompts_block import WirePrompt

SAME_MASK_IOU = 0.9  # two resolutions of one mask differ along its edge only


def _model(name, postprocessing, request=None):
    if name == "nano":
        return build_model(NANO_CONFIG, NANO_CHECKPOINT, postprocessing=postprocessing)
    photo = request.getfixturevalue("shared") / "weights/sam2_nano_photo"
    return build_model(
        photo / "sam2_nano.yaml", photo / "sam2_nano.safetensors", postprocessing=postprocessing
    )


def _predictor(model, image):
    predictor = SAM2ImagePredictor(model)
    predictor._bb_feat_sizes = [(model.image_size // stride,) * 2 for stride in (4, 8, 16)]
    predictor.set_image(image)
    return predictor


def _image(rng, height, width):
    return (
        rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        .repeat(8, 0)
        .repeat(8, 1)[:height, :width]
    )


def _assert_masks_equal(sam2, embedding, predictor, prompts):
    """Each prompt's mask and the joined one, pixel for pixel.

    Returns the share of each mask that is set.
    """
    masks = []
    for prompt in prompts:
        points = (
            {"point_coords": prompt.points, "point_labels": prompt.labels}
            if len(prompt.labels)
            else {}
        )
        masks.append(
            predictor.predict(box=prompt.box, multimask_output=False, **points)[0][0].astype(bool)
        )
        np.testing.assert_array_equal(sam2.decode(embedding, [prompt]), masks[-1])
    np.testing.assert_array_equal(sam2.decode(embedding, prompts), np.any(masks, axis=0))
    return [mask.mean() for mask in masks]


def _prompts(rng, height, width):
    return [
        random_prompt(rng, height, width, box=box, points=k)
        for box, k in ((True, 0), (True, 3), (False, 1), (True, 3))
    ]


@pytest.mark.parametrize("size", [(168, 168), (500, 333), (90, 1200), (1500, 2000)])
def test_the_input_equals_the_transforms_of_sam2(size):
    model = _model("nano", False)
    image = _image(np.random.default_rng(4), *size)
    expected = SAM2ImagePredictor(model)._transforms(image)[None]
    assert torch.equal(Sam2(model)._pixels(image), expected)


def test_the_resize_runs_on_the_device():
    """A photo goes to the device as bytes; no float of its size is on the host."""
    sam2 = Sam2(_model("nano", False))
    sam2.device = torch.device("meta")
    seen = []
    sam2._transforms = SimpleNamespace(transforms=lambda pixels: seen.append(pixels) or pixels)
    sam2._pixels(np.zeros((300, 200, 3), np.uint8))
    assert [(x.device.type, x.shape) for x in seen] == [("meta", (3, 300, 200))]


@pytest.mark.parametrize("name", ["nano", "photo"])
@pytest.mark.parametrize("postprocessing", [False, True])
def test_masks_equal_the_predictors(name, postprocessing, request):
    model, rng = _model(name, postprocessing, request), np.random.default_rng(1)
    sam2 = Sam2(model)
    for height, width in ((168, 168), (90, 151), (300, 210)):
        image = _image(rng, height, width)
        _assert_masks_equal(
            sam2, sam2.encode(image), _predictor(model, image), _prompts(rng, height, width)
        )


def _twins(size):
    """Ours and build_sam2's model of a size that is published, with the same random weights."""
    name = f"configs/sam2.1/sam2.1_hiera_{size}.yaml"
    torch.manual_seed(0)
    ours = build_model(name, None, postprocessing=True)
    torch.manual_seed(0)
    return ours, build_sam2(name, device="cpu")


@pytest.mark.parametrize("size", ["t", pytest.param("l", marks=pytest.mark.slow)])
def test_masks_of_published_sizes_equal_the_predictors(size):
    """Random weights give logits within 0.6, which SAM2 calls unstable.

    It then takes the best of its three other masks. A hundred times those logits are stable, and it
    takes the single mask.
    """
    (ours, theirs), rng = _twins(size), np.random.default_rng(1)
    sam2, image = Sam2(ours), _image(rng, 300, 210)
    embedding, predictor = sam2.encode(image), _predictor(theirs, image)
    prompts = _prompts(rng, 300, 210)
    shares = _assert_masks_equal(sam2, embedding, predictor, prompts)
    with torch.no_grad():
        for model in (ours, theirs):
            for part in model.sam_mask_decoder.output_hypernetworks_mlps[0].layers[-1].parameters():
                part.mul_(100)
    shares += _assert_masks_equal(sam2, embedding, predictor, prompts)
    assert 0.1 < min(shares) < max(shares) < 0.9  # neither empty nor full
    assert len(set(shares)) == len(shares)  # every prompt, and both choices, gave another mask


def test_no_prompt_gives_an_empty_mask_and_capped_masks_keep_native_coordinates():
    sam2 = Sam2(_model("nano", False))
    example = generate(DataConfig(size=320), 1)
    embedding = sam2.encode(example.image)
    assert not sam2.decode(embedding, []).any()
    rows, columns = np.flatnonzero(example.mask.any(1)), np.flatnonzero(example.mask.any(0))
    box = np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float32)
    prompt = WirePrompt(box, np.zeros((0, 2), np.float32), np.zeros(0, np.int32))
    large, small = sam2.decode(embedding, [prompt]), sam2.decode(embedding, [prompt], (160, 160))
    assert large.shape == (320, 320)
    assert iou(small, resize_nearest(large, (160, 160))) > SAME_MASK_IOU


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "sam2.build_sam.os.system",
        "sam2.build_sam.build_sam2",
        "sam2.nothing.Here",
        "torch.nn.Linear",
    ],
)
def test_a_target_that_is_no_sam2_class_is_refused_and_not_run(tmp_path, target):
    tree = OmegaConf.load(NANO_CONFIG)
    marker = tmp_path / "ran"
    tree.model.image_encoder.neck.position_encoding = {
        "_target_": target,
        "command": f"touch {marker}",
    }
    OmegaConf.save(tree, tmp_path / "bad.yaml")
    with pytest.raises(UserError, match="class of the sam2 package"):
        build_model(tmp_path / "bad.yaml", None, postprocessing=False)
    assert not marker.exists()


def test_a_config_inside_the_sam2_package_is_built_as_build_sam2_does():
    ours, theirs = _twins("t")
    weights, expected = ours.state_dict(), theirs.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    for field in (
        "dynamic_multimask_via_stability",
        "dynamic_multimask_stability_delta",
        "dynamic_multimask_stability_thresh",
    ):
        assert getattr(ours.sam_mask_decoder, field) == getattr(theirs.sam_mask_decoder, field)


def test_weights_load_from_pt_and_bad_ones_are_named(tmp_path):
    model = _model("nano", False)
    torch.save({"model": model.state_dict()}, tmp_path / "good.pt")
    again = build_model(NANO_CONFIG, tmp_path / "good.pt", postprocessing=False)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    torch.save({"model": {"stray": torch.zeros(1)}}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match=r"(?s)bad\.pt.*Missing key"):
        build_model(NANO_CONFIG, tmp_path / "bad.pt", postprocessing=False)
    with pytest.raises(UserError, match=r"absent\.pt.*No such file"):
        build_model(NANO_CONFIG, tmp_path / "absent.pt", postprocessing=False)
    with pytest.raises(UserError, match="no such file"):
        build_model("absent.yaml", None, postprocessing=False)


@pytest.mark.parametrize("name", ["nano", "photo"])
def test_weights_in_bfloat16_change_no_bit_of_autocast(name, request, monkeypatch):
    """Autocast alone rounds the same weights at every call."""
    rng = np.random.default_rng(7)
    image = _image(rng, 120, 200)
    prompts = [random_prompt(rng, 120, 200, box=True, points=2) for _ in range(3)]
    stored = Sam2(_model(name, False, request), dtype="bfloat16")
    monkeypatch.setattr(sam2_model, "_round_weights", lambda model: None)
    autocast = Sam2(_model(name, False, request), dtype="bfloat16")
    assert {p.dtype for p in autocast.model.parameters()} == {torch.float32}
    rounded = [p for p in stored.model.parameters() if p.dtype == torch.bfloat16]
    assert sum(p.numel() for p in rounded) > 0.8 * sum(p.numel() for p in stored.model.parameters())
    ours, theirs = stored.encode(image), autocast.encode(image)
    for one, other in zip(ours.features, theirs.features, strict=True):
        assert torch.equal(one, other)
    np.testing.assert_array_equal(stored.decode(ours, prompts), autocast.decode(theirs, prompts))
    assert stored.decode(ours, prompts).any()

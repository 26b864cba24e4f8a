"""`segr1_jax.load` and `segment` against `segr1 predict` on the same images."""

import json

import numpy as np
import pytest
from PIL import Image
from small_set import COUNT, GOOD, HOSTILE, SIDE, config_of

import segr1_jax
from segr1_jax.api import segmenter
from segr1_jax.common.drawing import png
from segr1_jax.errors import UserError
from segr1_jax.infer.predict import run_predict

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("compile_quickly", "one_device")]
SENTENCE = "the green object"
GOOD_ONES = (0, 1, 3)
KEYS = [f"prompt.frame={SIDE}", "prompt.max_tokens=128", "policy.compute_dtype=float32"]


@pytest.fixture
def policy(folder, monkeypatch):
    monkeypatch.setattr(segmenter, "prepare", lambda config: None)
    with segr1_jax.load(folder / "tiny", KEYS, batch=2) as policy:
        yield policy


def test_masks_equal_those_of_predict_whatever_form_an_image_has(
    policy, folder, scripted, tmp_path
):
    paths = [str(folder / f"images/{index}.png") for index in GOOD_ONES]
    config = config_of(folder, "prompt.max_tokens=128")
    run_predict(config, folder / "tiny", tmp_path, images=paths, instruction=SENTENCE)
    want = [np.asarray(Image.open(tmp_path / f"masks/{index}.png")) > 0 for index in GOOD_ONES]
    forms = [paths[0], Image.open(paths[1]), np.asarray(Image.open(paths[2]))]
    results = policy.segment(forms, SENTENCE)
    assert [result.status for result in results] == ["ok"] * 3
    for result, mask in zip(results, want, strict=True):
        assert 0 < mask.mean() < 1
        np.testing.assert_array_equal(result.mask, mask)
        assert (result.text, result.thinking) == (GOOD, "it lies there")
        np.testing.assert_array_equal(result.boxes, [[20, 20, 150, 150]])
        np.testing.assert_array_equal(result.points, [[84, 84]])
        np.testing.assert_array_equal(result.labels, [1])
    one = policy.segment(paths[0], SENTENCE)
    np.testing.assert_array_equal(one.mask, want[0])
    assert one._repr_png_() == png(np.asarray(one.overlay()))
    assert (np.asarray(one.overlay()) != one.image).any(-1)[84, 84]


def test_the_sentence_reaches_the_prompt(policy, folder, monkeypatch):
    asked = []
    monkeypatch.setattr(
        segmenter, "answer_texts", lambda client, answerer, pairs: asked.extend(pairs) or []
    )
    image = folder / "images/0.png"
    policy.segment([image, image, image], ["a", None, "c"])
    assert [example.instruction for example, _ in asked] == ["a", None, "c"]
    assert len({prompt.token_ids.tobytes() for _, prompt in asked}) == 3


def test_an_answer_without_a_mask_says_why(policy, folder, monkeypatch):
    def hostile(client, answerer, pairs):
        return [segmenter.AnswerText(example, HOSTILE) for example, _ in pairs]

    monkeypatch.setattr(segmenter, "answer_texts", hostile)
    result = policy.segment(folder / f"images/{COUNT - 1}.png")
    assert (result.mask, result.status, result.text) == (None, "missing_think", HOSTILE)
    assert (result.boxes.shape, result.points.shape, result.labels.shape) == ((0, 4), (0, 2), (0,))


def test_the_sidecar_ends_with_the_context(folder, monkeypatch):
    monkeypatch.setattr(segmenter, "prepare", lambda config: None)
    with segr1_jax.load(folder / "tiny", KEYS) as policy:
        assert policy._responder.rows == 1
        assert policy._responder.client._channels[0]._supervisor.pid
        region = policy._responder.client._channels[0]._region
    assert region.closed
    policy.close()


@pytest.mark.parametrize(
    ("image", "instruction", "words"),
    [
        ("absent.png", None, r"absent\.png"),
        (np.zeros((4, 4), np.uint8), None, r"an RGB array.*uint8 \(4, 4\)"),
        (np.zeros((4, 4, 3)), None, "float64"),
        (["a.png", "b.png"], ["one"], "one for each of the 2 images"),
    ],
)
def test_what_cannot_be_answered_is_named(policy, image, instruction, words):
    with pytest.raises(UserError, match=words):
        policy.segment(image, instruction)


def test_a_directory_without_a_policy_is_refused_before_sam2_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(segmenter, "prepare", lambda config: None)
    with pytest.raises(UserError, match=r"neither config\.json nor config\.yaml"):
        segr1_jax.load(tmp_path)
    with pytest.raises(UserError, match="did you mean prompt"):
        segr1_jax.load(tmp_path, ["promt.frame=168"])


@pytest.mark.parametrize(
    ("content", "overrides", "words"),
    [
        ('{"nano": false, "sam2": null, "frame": 168}', [], "trained with one of local files"),
        ('{"nano": fal', [], "the settings that segr1 export wrote"),
        ("[]", [], "a list"),
    ],
)
def test_an_export_does_not_get_another_sam2_in_silence(tmp_path, content, overrides, words):
    (tmp_path / "segment.json").write_text(content)
    with pytest.raises(UserError, match=words):
        segr1_jax.load(tmp_path, overrides)


def test_the_settings_of_an_export_are_those_of_its_run(tmp_path):
    kept = {"task": "prerl", "frame": 336, "max_new_tokens": 48, "postprocessing": False}
    text = json.dumps(kept | {"sam2": ["me/sam2@main"], "nano": False, "messages": {}})
    (tmp_path / "segment.json").write_text(text)
    config = segmenter._config_of(tmp_path, ["prompt.frame=168"])
    assert (config.prompt.task, config.prompt.frame, config.answer_tokens) == ("prerl", 168, 48)
    assert (config.reward.sam2, config.reward.postprocessing) == ("me/sam2@main", False)
    local = ["reward.sam2_config=a.yaml", "reward.sam2_checkpoint=a.pt"]
    assert segmenter._config_of(tmp_path, local).reward.sam2 == ""

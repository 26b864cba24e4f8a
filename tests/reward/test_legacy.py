"""The reference code's reward.

Its numbers by hand, its images against torchvision, the whole path against SAM2 called here.
"""

import numpy as np
import pytest
from PIL import Image

from segr1_jax.reward import judging as judge
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.combine import combine
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.judging import AnswerText
from segr1_jax.reward.legacy import legacy_example, legacy_score
from segr1_jax.reward.scores import iou
from segr1_jax.reward.sidecar.model_files import NANO_CHECKPOINT, NANO_CONFIG, build_model
from segr1_jax.reward.sidecar.sam2_model import Sam2
from segr1_jax.reward.terms import Terms
from segr1_jax.reward.transport.prompts_block import WirePrompt
from segr1_jax.types import Example, Frame, ParseStatus, Score, ScoreStatus

MASK_ONLY = RewardConfig().term_weights | {"format": 0.0}
OBJECT = np.zeros((768, 768), bool)
OBJECT[200:500, 100:400] = True  # 300 x 300


@pytest.fixture(scope="module")
def photo():
    """Larger than 768 on one side, smaller on the other, a mask with a ragged edge."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (500, 900, 3), dtype=np.uint8)
    rows, columns = np.indices((500, 900))
    mask = np.hypot(rows - 260, columns - 400) + rng.normal(0, 4, (500, 900)) < 150
    return Example(id=0, name="photo", image=image, mask=mask)


@pytest.mark.parametrize(
    ("mask", "total"),  # 90000 / 768^2 = 0.152588: 0.7 + 0.3 * 0.847412; 0.3; 0.7 * 0.152588
    [(OBJECT, 0.954224), (np.zeros_like(OBJECT), 0.3), (np.ones_like(OBJECT), 0.106812)],
    ids=["perfect", "empty", "whole image"],
)
def test_worked_totals(mask, total):
    score = legacy_score(Score(ScoreStatus.OK, iou(mask, OBJECT), s_measure=0.5, mask=mask))
    assert combine(MASK_ONLY, ParseStatus.OK, score, {}).total == pytest.approx(total, abs=1e-6)


def test_an_empty_union_has_iou_0():
    empty = np.zeros_like(OBJECT)
    score = legacy_score(Score(ScoreStatus.OK, iou(empty, empty), s_measure=1.0, mask=empty))
    assert (score.iou, score.s_measure) == (0.0, 1.0)


def test_a_score_that_could_not_be_had_stays_so():
    lost = Score(ScoreStatus.QUARANTINED, 0.0, 0.0)
    assert legacy_score(lost) is lost


def _as_torchvision(photo):
    """The reference's two resizes, and cv2.COLOR_BGR2RGB of an RGB array."""
    resize = pytest.importorskip("torchvision.transforms.functional").resize
    rgb = np.array(resize(Image.fromarray(photo.image), (768, 768)))
    mask = np.array(resize(Image.fromarray(photo.mask).convert("L"), (768, 768))) > 127
    return np.stack([rgb[..., 2], rgb[..., 1], rgb[..., 0]], axis=-1), mask


def test_image_and_mask_are_the_reference_codes(photo):
    image, mask = _as_torchvision(photo)
    found = legacy_example(photo)
    np.testing.assert_array_equal(found.image, image)
    np.testing.assert_array_equal(found.mask, mask)


def test_stretching_up_interpolates_between_pixel_centres_and_swaps_red_and_blue():
    """Two pixels to 768: their centres are at 191.5 and 575.5.

    Between them gray values grow by 1/384 of the difference.
    """
    red = np.array([[[0, 0, 0], [192, 0, 0]]], np.uint8)
    row = legacy_example(Example(0, "two", red, np.array([[False, True]]))).image[0]
    expected = np.clip((np.arange(768) - 191.5) / 384, 0, 1) * 192
    np.testing.assert_allclose(row[:, 2], expected, atol=0.51)
    assert not row[:, :2].any()


def test_the_whole_path_scores_what_sam2_makes_of_unconverted_coordinates(photo):
    box, points, labels = (
        (110, 90, 480, 600),
        ((300, 380), (20, 20)),
        (1, 0),
    )  # the second point lies outside of the box
    text = (
        f"<think>x</think> <bbox>{list(box)}</bbox>, "
        f"<points>{[list(p) for p in points]}</points>, <labels>{list(labels)}</labels>"
    )
    sam2 = Sam2(build_model(NANO_CONFIG, NANO_CHECKPOINT, postprocessing=False))
    image, truth = _as_torchvision(photo)
    mask = sam2.decode(
        sam2.encode(image),
        [WirePrompt(np.float32(box), np.float32(points[:1]), np.int32(labels[:1]))],
    )
    assert 0 < mask.sum() < mask.size

    with RewardClient(RewardConfig(legacy=True)) as client:
        judge.encode(client, photo, legacy=True)
        texts = [AnswerText(photo, text), AnswerText(photo, "no answer"), AnswerText(photo, text)]
        found = judge.collect(
            client,
            judge.submit(client, texts, lambda _: Frame(756, 756), "rl", legacy=True),
            Terms(RewardConfig()),
        )
        assert client.stats().totals["encodes"] == 1
    assert [item.reward.parse for item in found] == [
        ParseStatus.OK,
        ParseStatus.MISSING_THINK,
        ParseStatus.OK,
    ]
    expected = 1 + 0.7 * (mask & truth).sum() / (mask | truth).sum() + 0.3 * (1 - mask.mean())
    assert [found[0].reward.total, found[2].reward.total] == pytest.approx(
        [expected] * 2, abs=1e-12
    )
    assert found[1].reward.total == 0

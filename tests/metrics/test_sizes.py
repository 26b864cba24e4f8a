"""Image and truth of different sizes.

The prediction is resized to the truth with OpenCV's bilinear filter, as PySODEvalToolkit does.
"""

import cv2
import numpy as np
import py_sod_metrics as sod
import pytest
from PIL import Image
from tolerances import TOL_GOLDEN

from segr1_jax.data.config import DataConfig
from segr1_jax.data.sources import check, open_source
from segr1_jax.data.synthetic import generate
from segr1_jax.errors import UserError
from segr1_jax.metrics.predictions import Prediction
from segr1_jax.metrics.sample_protocol import PROTOCOLS
from segr1_jax.metrics.set_scores import score_set
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.judging import AnswerText
from segr1_jax.reward.resize import resize_map, resize_mask
from segr1_jax.reward.scores import iou, s_measure
from segr1_jax.reward.sidecar.model_files import NANO_CHECKPOINT, NANO_CONFIG, build_model
from segr1_jax.reward.sidecar.sam2_model import Sam2
from segr1_jax.reward.terms import Terms
from segr1_jax.training.evaluation import Scorer
from segr1_jax.types import Example, Frame, SamPrompt

# Image and truth of NC4K (height, width): a border more, one axis alone, another scale.
NC4K = [((370, 700), (370, 702)), ((600, 900), (604, 904)), ((750, 750), (681, 688))]
OTHERS = [((352, 352), (300, 400)), ((20, 30), (37, 61)), ((41, 43), (20, 21)), ((7, 5), (1, 1))]
SIDE, BOX = 168, (30, 40, 150, 140)


def resized(map_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(map_HW, size[::-1], interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize(("old", "new"), NC4K + OTHERS)
def test_maps_are_resized_as_opencv_does_to_the_bit(old, new):
    soft = np.random.default_rng(0).integers(0, 256, old, dtype=np.uint8)
    mask = soft > 200
    np.testing.assert_array_equal(resize_map(soft, new), resized(soft, new))
    hard = resized(mask.astype(np.uint8) * 255, new) > 127
    np.testing.assert_array_equal(resize_mask(mask, new), hard)
    assert resize_map(soft, old) is soft
    assert resize_mask(mask, old) is mask


def blurred_disc(size: tuple[int, int], share: float) -> np.ndarray:
    rows, columns = (np.linspace(-1, 1, side) for side in size)
    distance_HW = np.hypot(rows[:, None], columns)
    return np.clip(255 * (share - distance_HW) * 4 + 127, 0, 255).astype(np.uint8)


@pytest.fixture
def pair(tmp_path):
    """A function that writes a set of one image and one truth, of two sizes, and opens it."""

    def write(image_size, truth_size):
        for part in ("images", "masks"):
            (tmp_path / part).mkdir()
        Image.new("RGB", image_size[::-1]).save(tmp_path / "images/a.png")
        truth = (blurred_disc(truth_size, 0.5) > 128).astype(np.uint8) * 255
        Image.fromarray(truth).save(tmp_path / "masks/a.png")
        folders = {"images": str(tmp_path / "images"), "masks": str(tmp_path / "masks")}
        return open_source(DataConfig(kind="folder", **folders)), truth

    return write


@pytest.mark.parametrize("soft", [True, False], ids=["soft map", "mask"])
@pytest.mark.parametrize(("image_size", "truth_size"), NC4K)
def test_figures_are_those_of_pysodmetrics_at_the_size_of_the_truth(
    pair, tmp_path, soft, image_size, truth_size
):
    source, truth = pair(image_size, truth_size)
    given = blurred_disc(image_size, 0.6)
    given = given if soft else (given > 127).astype(np.uint8) * 255
    Image.fromarray(given).save(tmp_path / "given.png")
    counted = PROTOCOLS["standard"]([Prediction("a", "ok", mask="given.png")], "foreground")
    result = score_set(source, counted, tmp_path, "foreground")
    assert (result.invalid, result.resized) == (0, 1)
    metrics = {"s_measure": sod.Smeasure(), "mae": sod.MAE(), "weighted_f": sod.WeightedFmeasure()}
    seen = resized(given, truth_size)
    for metric in metrics.values():
        metric.step(pred=seen, gt=truth)
    expected = {
        "s_measure": metrics["s_measure"].get_results()["sm"],
        "mae": metrics["mae"].get_results()["mae"],
        "weighted_f": metrics["weighted_f"].get_results()["wfm"],
        "iou": ((seen > 127) & (truth > 0)).sum() / ((seen > 127) | (truth > 0)).sum(),
    }
    found = {name: result.figures[name] for name in expected}
    assert found == pytest.approx(expected, abs=TOL_GOLDEN)


def test_such_pairs_are_samples_and_pictures_that_lie_on_their_side_are_none(pair, tmp_path):
    source, truth = pair((600, 900), (604, 904))
    check(source)
    example = source[0]
    assert (example.image.shape[:2], example.mask.shape) == ((600, 900), (604, 904))
    np.testing.assert_array_equal(example.mask, truth > 0)
    Image.fromarray(truth.T).save(tmp_path / "masks/a.png")
    with pytest.raises(UserError, match=r"masks/a\.png.*900x600.*604x904"):
        check(source)
    with pytest.raises(UserError, match=r"masks/a\.png"):
        source[0]


@pytest.mark.parametrize("truth_size", [(SIDE + 3, SIDE + 1), (SIDE // 2, SIDE // 2)])
def test_rewards_and_held_out_figures_compare_at_the_size_of_the_truth(truth_size):
    made = generate(DataConfig(size=SIDE), 3)
    truth = resized(made.mask.astype(np.uint8) * 255, truth_size) > 127
    example = Example(0, "a", made.image, truth)
    sam2 = Sam2(build_model(NANO_CONFIG, NANO_CHECKPOINT, postprocessing=False))
    points = np.array([[90, 90]], np.float32), np.ones(1, np.int32)
    prompt = SamPrompt(np.array(BOX, np.float32), *points)
    mask = sam2.decode(sam2.encode(made.image), [prompt])
    seen = resized(mask.astype(np.uint8) * 255, truth_size) > 127
    assert 0 < seen.mean() < 1
    text = f"<think>t</think> <bbox>[{','.join(map(str, BOX))}]</bbox>, "
    text += "<points>[[90,90]]</points>, <labels>[1]</labels>"
    with RewardClient(RewardConfig()) as client:
        scorer = Scorer(client, lambda _: Frame(SIDE, SIDE), "rl", Terms(RewardConfig()))
        ((row,), (judged,)) = scorer.rows([AnswerText(example, text)])
    assert (row.iou, row.s_measure) == (iou(seen, truth), s_measure(seen, truth))
    assert row.mae == np.mean(seen != truth)
    assert (judged.reward.iou, judged.reward.s_measure) == (row.iou, row.s_measure)
    # What is kept of an answer is in pixels of its image.
    np.testing.assert_array_equal(judged.mask, mask)

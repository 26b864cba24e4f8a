"""Quality gates of the nano SAM2 on held-out synthetic images.

The masks are those that SAM2ImagePredictor would give. Each gate is a difference of mean IoUs and
its least value.
"""

from collections import defaultdict

import numpy as np
from prompts import tight_box

from segr1_jax.data.config import LEVELS, DataConfig
from segr1_jax.data.synthetic import scene
from segr1_jax.reward.scores import iou
from segr1_jax.reward.transport.prompts_block import WirePrompt

HELD_OUT_SEED = 77_000_000
# A box is moved by this share of its width, to measure that the mask depends on its box.
SHIFT = 0.25
GATES = {
    "box_above_fill": 0.15,
    "box_above_ellipse": 0.08,
    "points_only": 0.65,
    "background_point_costs": 0.2,
    "negative_gains": 0.05,
    "whole_image_box_costs": 0.4,
}


def measure_gates(sam2, images: int, seed: int = HELD_OUT_SEED) -> dict[str, float]:
    """Return the value of every gate over `images` held-out images of all levels in turn."""
    ious = defaultdict(list)
    for index in range(images):
        config = DataConfig(level=LEVELS[index % 3], max_objects=3, seed=seed)
        for name, value in _measure_image(
            sam2, np.random.default_rng((seed, index)), *scene(config, index)[:2]
        ).items():
            ious[name].append(value)
    mean = {name: float(np.mean(values)) for name, values in ious.items()}
    return {
        "box_above_fill": mean["box"] - mean["fill"],
        "box_above_ellipse": mean["box"] - mean["ellipse"],
        "points_only": mean["points"],
        "background_point_costs": mean["points_1"] - mean["stray"],
        "negative_gains": mean["pair_negative"] - mean["pair"],
        "whole_image_box_costs": mean["box"] - mean["whole_image_box"],
        **{f"iou_{name}": value for name, value in mean.items()},
    }


def _measure_image(sam2, rng, image, masks) -> dict[str, float]:
    embedding = sam2.encode(image)
    truth, box = masks[0], tight_box(masks[0])
    positives = _points_in(rng, truth, int(rng.integers(1, 4)))
    background = _points_in(rng, ~np.logical_or.reduce(masks), 1)

    def score(box, points=(), labels=()):
        prompt = WirePrompt(
            box, np.array(points, np.float32).reshape(-1, 2), np.array(labels, np.int32)
        )
        return iou(sam2.decode(embedding, [prompt]), truth)

    result = {
        "box": score(box),
        "shifted_box": score(box + SHIFT * (box[2] - box[0]) * np.array([1, 0, 1, 0], np.float32)),
        "whole_image_box": score(np.array([0, 0, *truth.shape[::-1]], np.float32)),
        "fill": iou(_rectangle(box, truth.shape), truth),
        "ellipse": iou(_ellipse(box, truth.shape), truth),
        "points": score(None, positives, [1] * len(positives)),
        "points_1": score(None, positives[:1], [1]),
        "stray": score(None, background, [1]),
        "box_points": score(box, positives, [1] * len(positives)),
        "box_stray": score(box, background, [1]),
    }
    if len(masks) > 1:
        pair = tight_box(masks[0] | masks[1])
        result["pair"] = score(pair)
        result["pair_negative"] = score(pair, _points_in(rng, masks[1], 1), [0])
    return result


def _points_in(rng, area, count: int) -> np.ndarray:
    rows, columns = np.nonzero(area)
    chosen = rng.choice(len(rows), count, replace=False)
    return np.stack([columns[chosen], rows[chosen]], axis=1) + 0.5


def _rectangle(box, shape):
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    return (x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])


def _ellipse(box, shape):
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    center, radius = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    return ((x - center[0]) / radius[0]) ** 2 + ((y - center[1]) / radius[1]) ** 2 < 1


def report(values: dict[str, float]) -> str:
    """Return one line per gate, then the mean IoUs from which they are computed."""
    lines = [
        f"{'ok  ' if values[name] >= least else 'FAIL'} {name} {values[name]:.3f} (least {least})"
        for name, least in GATES.items()
    ]
    return "\n".join(
        lines + [f"     {name} {value:.3f}" for name, value in values.items() if name not in GATES]
    )

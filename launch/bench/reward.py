"""Measure how much faster the reward of a group is than the reference procedure.

    python launch/bench/reward.py ../shared/bench/reference_reward.py \\
        [--threads 1] [--rounds 3] [--answers 8]

Both run in one process on the same images, answers and weights. A group is 8 answers of 2 boxes
with 2 points in each, about one image of 756 x 756 pixels. The model is SAM2.1 tiny with random
weights, in float32 on the CPU. The reference sets the image again for every box. Ours goes through
the sidecar with an empty cache (cold), then again (warm). pysodmetrics is needed beside torch and
sam2 (numpy < 2.3.5). The exit status is 1 if scores differ or a ratio is not reached.
"""

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sam2.sam2_image_predictor import SAM2ImagePredictor

from segr1_jax.answer.grammar import sam_prompts
from segr1_jax.data.config import DataConfig
from segr1_jax.data.synthetic import generate
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.sidecar.model_files import build_model
from segr1_jax.types import Answer, Example, Score, ScoreRequest

SAM2 = "configs/sam2.1/sam2.1_hiera_t.yaml"
SIDE = 756
BOXES, POINTS = 2, 2
WANTED_RATIOS = {"cold": 10, "warm": 30}
# Of the S-measure; IoUs must be equal.
TOLERANCE = 1e-9


class CountingPredictor(SAM2ImagePredictor):
    """A predictor for the reference that counts how often an image is encoded."""

    encodes = 0

    def set_image(self, image) -> None:
        self.encodes += 1
        super().set_image(image)


def random_answers(example: Example, rng: np.random.Generator, count: int) -> list[Answer]:
    """Sample answers with points inside their boxes, whose sides are at least SIDE // 10 long."""
    answers = []
    for _ in range(count):
        corner_B2 = rng.integers(0, SIDE // 2, (BOXES, 2))
        size_B2 = rng.integers(SIDE // 10, SIDE // 2, (BOXES, 2))
        points_BK2 = corner_B2[:, None] + (
            rng.random((BOXES, POINTS, 2)) * size_B2[:, None]
        ).astype(int)
        boxes = tuple(map(tuple, np.concatenate([corner_B2, corner_B2 + size_B2], axis=1).tolist()))
        labels = (1, *rng.integers(0, 2, BOXES * POINTS - 1).tolist())
        answers.append(
            Answer(
                thinking="",
                boxes=boxes,
                points=tuple(map(tuple, points_BK2.reshape(-1, 2).tolist())),
                labels=labels,
                frame=example.frame,
            )
        )
    return answers


def timed(call, *arguments):
    began = time.perf_counter()
    result = call(*arguments)
    return time.perf_counter() - began, result


def load_reference(path: Path):
    spec = importlib.util.spec_from_file_location("reference_reward", path)
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module.score_group


def agree(ours: list[Score], theirs: list[tuple[float, float]]) -> bool:
    """Return whether IoUs are equal, and S-measures close where the reference has one."""
    return all(
        o.iou == iou and not abs(o.s_measure - s) > TOLERANCE
        for o, (iou, s) in zip(ours, theirs, strict=True)
    )


def run_round(
    index: int, answers: int, client: RewardClient, predictor: CountingPredictor, score_group
) -> tuple[list[float], bool]:
    """Time the reference, ours cold and ours warm on a new image.

    Returns:
        The three times in seconds, and whether all scores agree.
    """
    example = generate(DataConfig(size=SIDE), index)
    answers = random_answers(example, np.random.default_rng(index), answers)
    requests = [
        ScoreRequest(example.image, example.mask, sam_prompts(answer, example.frame))
        for answer in answers
    ]
    plain = [(answer.boxes, answer.points, answer.labels) for answer in answers]

    def score():
        return client.collect(client.submit(requests))

    cold_s, cold = timed(score)
    reference_s, theirs = timed(score_group, predictor, example.image, example.mask, plain)
    warm_s, warm = timed(score)
    return [reference_s, cold_s, warm_s], agree(cold, theirs) and agree(warm, theirs)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reference", type=Path)
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answers", type=int, default=8, help="of a group")
    options = parser.parse_args()
    score_group = load_reference(options.reference)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    predictor = CountingPredictor(build_model(SAM2, None, postprocessing=True))
    rounds, same = [], True
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"model": predictor.model.state_dict()}, weights := Path(folder) / "tiny.pt")
        with RewardClient(
            RewardConfig(sam2_config=SAM2, sam2_checkpoint=str(weights), threads=options.threads)
        ) as client:
            for index in range(options.rounds):
                times, agreed = run_round(index, options.answers, client, predictor, score_group)
                print(
                    "round {}: reference {:.2f} s, cold {:.2f} s, warm {:.2f} s".format(
                        index, *times
                    ),
                    flush=True,
                )
                rounds.append(times)
                same &= agreed
            totals = client.stats().totals
    ratios = {
        name: statistics.median(times[0] / times[at] for times in rounds)
        for at, name in enumerate(WANTED_RATIOS, 1)
    }
    print(
        f"encodes per group: reference {predictor.encodes / options.rounds:g}, "
        f"ours {totals['encodes'] / options.rounds:g}"
    )
    encode_s = totals["encode_s"] / totals["encodes"]
    decode_s = totals["decode_s"] / totals["scores"]
    print(f"ours: encode {encode_s:.3f} s, then {decode_s:.3f} s per answer; scores agree: {same}")
    print(f"median ratio cold {ratios['cold']:.1f}, warm {ratios['warm']:.1f}")
    return int(not same or any(ratios[name] < wanted for name, wanted in WANTED_RATIOS.items()))


if __name__ == "__main__":
    sys.exit(main())

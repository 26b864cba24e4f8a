"""The sidecar on a GPU scores as it does on a CPU. Run with `-m gpu` on a machine that has one."""

from pathlib import Path

import numpy as np
import pytest
from tolerances import TOL_GPU_SCORE

from segr1_jax.data.config import DataConfig
from segr1_jax.data.synthetic import generate
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.config import RewardConfig
from segr1_jax.types import SamPrompt, ScoreRequest, ScoreStatus

pytestmark = [
    pytest.mark.gpu,
    # torch must not initialize CUDA in this process: the device file tells.
    pytest.mark.skipif(not Path("/dev/nvidia0").exists(), reason="no NVIDIA GPU on this machine"),
]


def requests() -> list[ScoreRequest]:
    """One box per synthetic image, tight around its object."""
    found = []
    for index in range(8):
        example = generate(DataConfig(), index)
        rows, columns = np.nonzero(example.mask)
        box = np.array([columns.min(), rows.min(), columns.max(), rows.max()], np.float32)
        prompt = SamPrompt(box, np.zeros((0, 2), np.float32), np.zeros(0, np.int32))
        found.append(ScoreRequest(example.image, example.mask, (prompt,), False))
    return found


def scores(config: RewardConfig) -> np.ndarray:
    with RewardClient(config) as client:
        found = client.collect(client.submit(requests()))
    assert all(score.status is ScoreStatus.OK for score in found)
    return np.array([(score.iou, score.s_measure) for score in found])


@pytest.fixture(scope="module")
def on_cpu():
    return scores(RewardConfig())


@pytest.mark.parametrize(
    "config",
    [
        RewardConfig(device="cuda"),
        RewardConfig(device="cuda", dtype="bfloat16"),
        RewardConfig(device="cuda:0", sidecars=2, gpu_memory=0.1),
    ],
    ids=["float32", "bfloat16", "two on one GPU"],
)
def test_scores_are_those_of_a_cpu(on_cpu, config):
    assert on_cpu[:, 0].mean() > 0.5, "the prompts say nothing"
    np.testing.assert_allclose(scores(config), on_cpu, atol=TOL_GPU_SCORE)

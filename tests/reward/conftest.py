"""Requests and configuration shared by the sidecar's tests."""

import numpy as np
import pytest
from random_prompts import random_prompt

from segr1_jax.data.config import DataConfig
from segr1_jax.data.synthetic import generate
from segr1_jax.reward.config import RewardConfig
from segr1_jax.types import ScoreRequest


@pytest.fixture(scope="session")
def requests():
    """24 requests on 6 images of two sizes: groups share images.

    Boxes, points, several prompts, one without any prompt.
    """
    rng, made = np.random.default_rng(0), []
    for index in range(24):
        example = generate(DataConfig(size=168 if index % 2 else 120), index % 6)
        height, width = example.mask.shape
        kinds = [(True, 0), (True, 2), (False, 3), (True, 2)][: index % 5]
        prompts = tuple(
            random_prompt(rng, height, width, box=box, points=points) for box, points in kinds
        )
        made.append(ScoreRequest(example.image, example.mask, prompts, want_mask=index % 3 == 0))
    return made


@pytest.fixture(scope="session")
def reward_config():
    return RewardConfig(request_timeout_s=30, queue=8)

"""Random SAM2 prompts for the reward's tests."""

import numpy as np

from segr1_jax.types import SamPrompt


def random_prompt(rng, height, width, *, box, points):
    corners = np.sort(rng.uniform(0, 1, (2, 2)), axis=0) * (width, height)
    return SamPrompt(
        box=corners.reshape(4).astype(np.float32) if box else None,
        points=(rng.uniform(0, 1, (points, 2)) * (width, height)).astype(np.float32),
        labels=rng.integers(0, 2, points).astype(np.int32),
    )

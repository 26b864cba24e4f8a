"""The normalized patches of a prompt, made on the host."""

import numpy as np

from segr1_jax.types import Prompt


def tower_values(prompt: Prompt, frames: int = 2) -> np.ndarray:
    """Inputs of the tower [W, S, 3 * frames * patch^2], each frame the same."""
    channels = prompt.patches.reshape(*prompt.patches.shape[:2], 3, -1)
    values = np.stack([prompt.levels[c][channels[:, :, c]] for c in range(3)], axis=2)
    return np.stack([values] * frames, axis=3).reshape(*prompt.patches.shape[:2], -1)

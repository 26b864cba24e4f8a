"""Prompt records into the fixed-shape arrays a jitted step takes."""

from collections.abc import Sequence

import numpy as np

from segr1_jax.errors import UserError
from segr1_jax.policy.model import PromptBatch
from segr1_jax.policy.vision import Images
from segr1_jax.types import Prompt

FIELDS = ("patches", "patch_positions", "patch_mask", "window_image")


def stack_prompts(prompts: Sequence[Prompt], capacity: int) -> PromptBatch:
    """Stack prompts, padded on the right to `capacity` tokens; one constant shape, so nothing recompiles.

    Raises:
        UserError: a prompt longer than `capacity`, or images of different window counts (bring them to one frame).
    """
    longest = max(len(prompt.token_ids) for prompt in prompts)
    if longest > capacity:
        raise UserError("prompt.max_tokens", expected=f"at least {longest}, the longest prompt", got=str(capacity), remedy="raise it")
    windows = {prompt.patches.shape for prompt in prompts}
    if len(windows) > 1:
        raise UserError(
            "prompt.frame", expected="images of one patch grid in a batch", got=str(sorted(windows)), remedy="use one square frame"
        )

    def padded(name: str, fill: int) -> np.ndarray:
        rows = [getattr(prompt, name) for prompt in prompts]
        return np.stack([np.pad(row, [(0, 0)] * (row.ndim - 1) + [(0, capacity - row.shape[-1])], constant_values=fill) for row in rows])

    patches, positions, mask, image = (np.stack([getattr(prompt, name) for prompt in prompts]) for name in FIELDS)
    return PromptBatch(
        tokens=padded("token_ids", 0).astype(np.int32),
        positions=padded("positions", 0).astype(np.int32),
        next_position=np.array([prompt.next_position for prompt in prompts], np.int32),
        image_index=padded("image_index", -1).astype(np.int32),
        mask=np.arange(capacity) < np.array([len(prompt.token_ids) for prompt in prompts])[:, None],
        images=Images(patches.astype(np.float32), positions.astype(np.int32), mask, image.astype(np.int32)),
    )

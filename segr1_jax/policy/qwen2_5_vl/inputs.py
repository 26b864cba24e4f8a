"""Prompt records into the fixed-shape arrays a jitted step takes."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from segr1_jax.errors import UserError
from segr1_jax.policy.qwen2_5_vl.model import PromptBatch
from segr1_jax.policy.qwen2_5_vl.vision import Images
from segr1_jax.types import Prompt

FIELDS = ("patches", "patch_positions", "patch_mask", "window_image")


def window_bucket(windows: int) -> int:
    """The least of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that holds `windows`: two shapes per doubling, so few programs compile.

    Example:
        >>> [window_bucket(windows) for windows in (0, 3, 5, 49)]
        [1, 3, 6, 64]
    """
    power = 1 << max(windows - 1, 0).bit_length()
    return power * 3 // 4 if power >= 4 and windows <= power * 3 // 4 else power


def pad_windows(prompt: Prompt, capacity: int) -> Prompt:
    """`prompt` with empty windows, which belong to no image, up to `capacity` windows. Raises UserError where it has more already."""
    extra = capacity - len(prompt.patches)
    if extra < 0:
        raise UserError(
            "windows",
            expected=f"at most {capacity}",
            got=str(len(prompt.patches)),
            remedy="take a larger capacity",
        )
    return dataclasses.replace(
        prompt,
        patches=np.pad(prompt.patches, ((0, extra), (0, 0), (0, 0))),
        patch_positions=np.pad(prompt.patch_positions, ((0, extra), (0, 0), (0, 0))),
        patch_mask=np.pad(prompt.patch_mask, ((0, extra), (0, 0))),
        window_image=np.pad(prompt.window_image, (0, extra), constant_values=-1),
    )


def stack_prompts(
    prompts: Sequence[Prompt], capacity: int, window_capacity: int | None = None
) -> PromptBatch:
    """Stack prompts, padded on the right to `capacity` tokens and `window_capacity` windows.

    Without `window_capacity` nothing is added to the windows: with one fixed frame their number is a constant.

    Raises:
        UserError: a prompt longer than `capacity` or of more windows than `window_capacity`; without one, different window counts.
    """
    if window_capacity is not None:
        prompts = [pad_windows(prompt, window_capacity) for prompt in prompts]
    longest = max(len(prompt.token_ids) for prompt in prompts)
    if longest > capacity:
        raise UserError(
            "prompt.max_tokens",
            expected=f"at least {longest}, the longest prompt",
            got=str(capacity),
            remedy="raise it",
        )
    windows = {prompt.patches.shape for prompt in prompts}
    if len(windows) > 1:
        raise UserError(
            "prompt.frame",
            expected="images of one patch grid in a batch",
            got=str(sorted(windows)),
            remedy="use one square frame, or buckets",
        )

    def padded(name: str, fill: int) -> np.ndarray:
        rows = [getattr(prompt, name) for prompt in prompts]
        return np.stack(
            [
                np.pad(
                    row,
                    [(0, 0)] * (row.ndim - 1) + [(0, capacity - row.shape[-1])],
                    constant_values=fill,
                )
                for row in rows
            ]
        )

    patches, positions, mask, image = (
        np.stack([getattr(prompt, name) for prompt in prompts]) for name in FIELDS
    )
    return PromptBatch(
        tokens=padded("token_ids", 0).astype(np.int32),
        positions=padded("positions", 0).astype(np.int32),
        next_position=np.array([prompt.next_position for prompt in prompts], np.int32),
        image_index=padded("image_index", -1).astype(np.int32),
        mask=np.arange(capacity) < np.array([len(prompt.token_ids) for prompt in prompts])[:, None],
        images=Images(
            patches.astype(np.float32), positions.astype(np.int32), mask, image.astype(np.int32)
        ),
    )

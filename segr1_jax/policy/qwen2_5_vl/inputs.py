"""Conversion of Prompt records to the arrays of fixed shape that a jitted step takes."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from segr1_jax.errors import UserError
from segr1_jax.policy.qwen2_5_vl.model import PromptBatch
from segr1_jax.policy.qwen2_5_vl.vision import Images
from segr1_jax.types import Prompt


def window_bucket(windows: int) -> int:
    """Return the least of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that is at least `windows`.

    There are two shapes per doubling, so few programs are compiled.

    Example:
        >>> [window_bucket(windows) for windows in (0, 3, 5, 49)]
        [1, 3, 6, 64]
    """
    power = 1 << max(windows - 1, 0).bit_length()
    return power * 3 // 4 if power >= 4 and windows <= power * 3 // 4 else power


def pad_windows(prompt: Prompt, capacity: int) -> Prompt:
    """Add empty windows, which belong to no image, up to `capacity` windows.

    Raises UserError for a prompt with more windows.
    """
    extra = capacity - len(prompt.patches)
    if extra < 0:
        raise UserError(
            "windows",
            expected=f"at most {capacity}",
            got=str(len(prompt.patches)),
            remedy="use a larger capacity",
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

    Without `window_capacity` no windows are added: with one fixed frame their number is constant.

    Raises:
        UserError: a prompt has more than `capacity` tokens or `window_capacity` windows; without a
            window capacity, the prompts differ in their number of windows.
    """
    if window_capacity is not None:
        prompts = [pad_windows(prompt, window_capacity) for prompt in prompts]
    _check_shapes(prompts, capacity)
    length_B = np.array([len(prompt.token_ids) for prompt in prompts])
    return PromptBatch(
        tokens=_padded(prompts, "token_ids", capacity, fill=0),
        positions=_padded(prompts, "positions", capacity, fill=0),
        next_position=np.array([prompt.next_position for prompt in prompts], np.int32),
        # -1: padding is text, no image row replaces it.
        image_index=_padded(prompts, "image_index", capacity, fill=-1),
        mask=np.arange(capacity) < length_B[:, None],
        images=Images(
            patches=_stacked(prompts, "patches"),
            levels=_stacked(prompts, "levels"),
            positions=_stacked(prompts, "patch_positions").astype(np.int32),
            mask=_stacked(prompts, "patch_mask"),
            window_image=_stacked(prompts, "window_image").astype(np.int32),
        ),
    )


def _check_shapes(prompts: Sequence[Prompt], capacity: int) -> None:
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


def _padded(prompts: Sequence[Prompt], name: str, capacity: int, *, fill: int) -> np.ndarray:
    """Stack a field whose last axis is tokens, padded on the right to `capacity` (int32)."""
    rows = []
    for prompt in prompts:
        row = getattr(prompt, name)
        widths = [(0, 0)] * (row.ndim - 1) + [(0, capacity - row.shape[-1])]
        rows.append(np.pad(row, widths, constant_values=fill))
    return np.stack(rows).astype(np.int32)


def _stacked(prompts: Sequence[Prompt], name: str) -> np.ndarray:
    return np.stack([getattr(prompt, name) for prompt in prompts])

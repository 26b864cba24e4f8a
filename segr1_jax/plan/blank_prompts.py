"""A batch of one prompt about a black image, whose shapes are those of every batch of a run."""

import dataclasses

import numpy as np

from segr1_jax.config.schema import RunConfig
from segr1_jax.policy.qwen2_5_vl.arch import PolicyArch
from segr1_jax.policy.qwen2_5_vl.inputs import stack_prompts
from segr1_jax.policy.qwen2_5_vl.model import PromptBatch
from segr1_jax.prompt.patches import normalized_levels
from segr1_jax.prompt.processor_settings import VisionSettings
from segr1_jax.prompt.windows import join_windows
from segr1_jax.types import Frame, Prompt


def blank_prompts(config: RunConfig, arch: PolicyArch) -> PromptBatch:
    """Return a batch of one prompt about a black image of the configured frame."""
    vision = arch.vision
    settings = VisionSettings(
        vision.patch, vision.temporal_patch, vision.merge, vision.window, (0.0,) * 3, (1.0,) * 3
    )
    side, length = config.prompt.frame, config.prompt.max_tokens
    windows = join_windows([np.zeros((side, side, 3), np.uint8)], settings)
    kept = {
        field.name: getattr(windows, field.name)
        for field in dataclasses.fields(windows)
        if field.name != "unit_row"
    }
    ids, frame = np.zeros(length, np.int32), Frame(side, side)
    prompt = Prompt(
        0,
        ids,
        np.zeros((3, length), np.int32),
        length,
        ids - 1,
        **kept,
        levels=normalized_levels(settings),
        model_frame=frame,
        native_frame=frame,
    )
    return stack_prompts([prompt], length)

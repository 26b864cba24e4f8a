"""Prompts and target answers of supervised training."""

import numpy as np
from jaxtyping import Int

from segr1_jax.answer.coordinates import given_answer
from segr1_jax.answer.grammar import render
from segr1_jax.answer.targets import target_answer
from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError
from segr1_jax.prompt.build import PromptBuilder
from segr1_jax.types import Example, Frame, Prompt


def sft_task(config: RunConfig, example: Example) -> str:
    """Return the task whose wording asks about this example: every second one may have another."""
    second = config.sft.second_task
    return second if second and example.id % 2 else config.prompt.task


def sft_prompt(config: RunConfig, builder: PromptBuilder, example: Example) -> Prompt:
    """Build the prompt of an example."""
    return builder.build(example, sft_task(config, example))


def sft_target(
    config: RunConfig, builder: PromptBuilder, example: Example
) -> Int[np.ndarray, " T"]:
    """Return the token ids of the answer to an example: the given one, else one made of its mask.

    Raises:
        UserError: the answer is longer than a completion, or none can be made.
    """
    frame, task, sft = builder.frame_of(example), sft_task(config, example), config.sft
    if example.answer is not None:
        side = config.data.answer_side
        seen = Frame(side, side) if side else example.frame
        text = given_answer(example.answer, seen, frame, task=task, name=example.name)
    else:
        target = target_answer(
            example.mask,
            frame,
            interior=sft.interior_points,
            exterior=sft.exterior_points,
            box_margin=sft.box_margin,
            name=example.name,
        )
        text = render(target, task=task)
    ids_T = builder.encode_answer(text)
    most = config.rollout.max_tokens
    if len(ids_T) > most:
        raise UserError(
            f"{example.name}: answer",
            expected=f"at most rollout.max_tokens = {most} tokens",
            got=str(len(ids_T)),
            remedy="raise rollout.max_tokens or shorten the answer",
        )
    return ids_T

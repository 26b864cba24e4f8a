"""Completions as the arrays that a loss reads: numpy on the host, jax on the device.

Shape legend: B prompts; G completions per prompt; T completion tokens, padded on the right.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from segr1_jax.errors import UserError


class AnswerBatch(NamedTuple):
    """Target answers of SFT (G = 1).

    Attributes:
        tokens: int32[B, G, T].
        mask: bool[B, G, T]; True for real tokens, the end-of-turn token included.
        weight: float32[B, G]; weight of each completion in the loss, 0 for one that is left out.
    """

    tokens: Any
    mask: Any
    weight: Any


class GroupBatch(NamedTuple):
    """Sampled completions, with their advantages and log-probabilities for GRPO.

    Attributes:
        tokens: int32[B, G, T].
        mask: bool[B, G, T]; True for real tokens, the end-of-turn token included.
        weight: float32[B, G]; weight of each completion in the loss, 0 for one that is left out.
        advantages: float32[B, G].
        sampler_logprobs: float32[B, G, T]; of the policy that sampled.
        reference_logprobs: float32[B, G, T]; of the reference policy.
    """

    tokens: Any
    mask: Any
    weight: Any
    advantages: Any
    sampler_logprobs: Any
    reference_logprobs: Any


def answer_batch(answers: Sequence[np.ndarray], capacity: int) -> AnswerBatch:
    """Build the batch of one target answer per prompt, padded to `capacity` tokens.

    Raises:
        UserError: an answer longer than `capacity`.
    """
    longest = max(len(ids) for ids in answers)
    if longest > capacity:
        raise UserError(
            "rollout.max_tokens",
            expected=f"at least {longest}, the longest target answer",
            got=str(capacity),
            remedy="raise it",
        )
    tokens = np.zeros((len(answers), 1, capacity), np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, ids in enumerate(answers):
        tokens[row, 0, : len(ids)] = ids
        mask[row, 0, : len(ids)] = True
    return AnswerBatch(tokens, mask, np.ones((len(answers), 1), np.float32))

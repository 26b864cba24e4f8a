"""Completions, as the arrays a loss reads. Numpy on the host, jax on the device.

Shape legend: B prompts; G completions per prompt; T completion tokens, padded on the right.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from segr1_jax.errors import UserError


class AnswerBatch(NamedTuple):
    """Target answers (SFT; G = 1). The loss is the mean over completions by `weight`: 1, or 0 for one left out."""

    tokens: Any  # int32[B, G, T]
    mask: Any  # bool[B, G, T]
    weight: Any  # float32[B, G]


class GroupBatch(NamedTuple):
    """Sampled completions with what GRPO needs to know of them."""

    tokens: Any  # int32[B, G, T]
    mask: Any  # bool[B, G, T], the end-of-turn token included
    weight: Any  # float32[B, G], as above
    advantages: Any  # float32[B, G]
    sampler_logprobs: Any  # float32[B, G, T]
    reference_logprobs: Any  # float32[B, G, T]


def answer_batch(answers: Sequence[np.ndarray], capacity: int) -> AnswerBatch:
    """Token ids of one target answer per prompt, padded to `capacity`.

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

"""Completions as the arrays that a loss reads: numpy on the host, jax on the device.

Shape legend: B prompts; G completions per prompt; T completion tokens, padded on the right.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float32, Int32

from segr1_jax.errors import UserError


class AnswerBatch(NamedTuple):
    """Target answers for SFT (G = 1).

    `mask` marks real tokens, including the end-of-turn token; `weight` is the weight of each
    completion in the loss, 0 for one that is left out.
    """

    tokens: Int32[Array, "B G T"]
    mask: Bool[Array, "B G T"]
    weight: Float32[Array, "B G"]


class GroupBatch(NamedTuple):
    """Sampled completions, with their advantages and log-probabilities for GRPO.

    `mask` and `weight` are as in AnswerBatch. `sampler_logprobs` come from the policy that sampled,
    `reference_logprobs` from the reference policy.
    """

    tokens: Int32[Array, "B G T"]
    mask: Bool[Array, "B G T"]
    weight: Float32[Array, "B G"]
    advantages: Float32[Array, "B G"]
    sampler_logprobs: Float32[Array, "B G T"]
    reference_logprobs: Float32[Array, "B G T"]


def answer_batch(answers: Sequence[np.ndarray], capacity: int) -> AnswerBatch:
    """Build the batch of one target answer per prompt, padded to `capacity` tokens.

    Raises:
        UserError: an answer is longer than `capacity`.
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

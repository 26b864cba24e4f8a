"""The one function that turns states into token probabilities, for sampling, old, reference, policy and SFT alike.

Banned ids and the temperature live here, so sampler and trainer cannot disagree about the distribution.

Shape legend: B prompts; G completions; T tokens; D hidden; V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from segr1_jax.policy.chunked_head import (
    Head,
    Temperature,
    chunked_logprobs,
    tempered_logits,
    token_logprobs,
)
from segr1_jax.policy.qwen2_5_vl.model import PromptBatch, Qwen25VL


class TokenScores(NamedTuple):
    """Per token: log-probability of the token that stands there, and entropy (nats) of the distribution it came from."""

    logprobs: Float[Array, "B G T"]
    entropy: Float[Array, "B G T"]


@jax.named_scope("head")
def distribution(
    states: Float[Array, "... D"],
    kernel_DV: Float[Array, "D V"],
    banned: Sequence[int],
    temperature: Temperature,
) -> Float[Array, "... V"]:
    """Float32 log-probabilities of the tempered distribution with `banned` ids impossible."""
    return jax.nn.log_softmax(tempered_logits(states, kernel_DV, banned, temperature), axis=-1)


def score_tokens(
    model: Qwen25VL,
    prompts: PromptBatch,
    tokens_BGT: Int[Array, "B G T"],
    mask_BGT: Bool[Array, "B G T"],
    *,
    temperature: float = 1.0,
    chunk: int = 64,
) -> TokenScores:
    """Log-probability and entropy of every completion token given its prompt; 0 where `mask_BGT` is False."""
    states_BGTD = model.predict_states(prompts, tokens_BGT, mask_BGT)
    banned = model.arch.never_sampled
    return score_states(
        states_BGTD,
        model.head_kernel(),
        tokens_BGT,
        mask_BGT,
        banned=banned,
        temperature=temperature,
        chunk=chunk,
    )


@jax.named_scope("head")
def score_states(
    states_BGTD: Float[Array, "B G T D"],
    kernel_DV: Float[Array, "D V"],
    tokens_BGT: Int[Array, "B G T"],
    mask_BGT: Bool[Array, "B G T"],
    *,
    banned: Sequence[int],
    temperature: float,
    chunk: int,
) -> TokenScores:
    """The same from the states that predict each token.

    The vocabulary projection runs over `chunk` completion positions at a time (chunked_head.py), so no [B, G, T, V] array ever exists.
    Where all positions are one chunk, their logits do, and are made again for the backward pass.
    """
    head = Head(tuple(banned), temperature, chunk)
    whole = chunk >= tokens_BGT.shape[-1]
    by_token = jax.checkpoint(token_logprobs, static_argnums=3) if whole else chunked_logprobs
    logprobs, entropy = by_token(states_BGTD, kernel_DV, tokens_BGT, head)
    return TokenScores(jnp.where(mask_BGT, logprobs, 0.0), jnp.where(mask_BGT, entropy, 0.0))

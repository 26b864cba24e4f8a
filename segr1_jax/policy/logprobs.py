"""Token probabilities of given completions, for the reference and current policy and for SFT.

Banned ids and the temperature are applied in chunked_head.tempered_logits, which the sampler calls
too, so that sampler and trainer use the same distribution.

Shape legend: B prompts; G completions; T tokens; S slots of the stream of completion tokens; D
hidden; V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from segr1_jax.policy.chunked_head import (
    Head,
    chunked_logprobs,
    token_logprobs,
)
from segr1_jax.policy.packing import packed
from segr1_jax.policy.qwen2_5_vl.model import PromptBatch, Qwen25VL


class TokenScores(NamedTuple):
    """Log-probability of each token, and entropy (nats) of the distribution that predicts it."""

    logprobs: Float[Array, "B G T"]
    entropy: Float[Array, "B G T"]


def score_tokens(
    model: Qwen25VL,
    prompts: PromptBatch,
    tokens_BGT: Int[Array, "B G T"],
    mask_BGT: Bool[Array, "B G T"],
    *,
    temperature: float = 1.0,
    chunk: int = 64,
    slots: int | None = None,
) -> TokenScores:
    """Return log-probability and entropy of every completion token given its prompt.

    Both are 0 where `mask_BGT` is False. `chunk` is explained in `score_states`. `slots` is at
    least the number of real tokens of any group: the products over tokens then skip padding beyond
    it (policy/packing.py).
    """
    packing, group = packed(mask_BGT, slots), tokens_BGT.shape[1]
    states_BSD = model.packed_states(prompts, tokens_BGT, mask_BGT, packing)
    # The stream is one row with the tokens of all completions.
    tokens_B1S, mask_B1S = (packing.pack(x)[:, None] for x in (tokens_BGT, mask_BGT))
    scores = score_states(
        states_BSD[:, None],
        model.head_kernel(),
        tokens_B1S,
        mask_B1S,
        banned=model.arch.never_sampled,
        temperature=temperature,
        chunk=chunk * group,
    )
    return TokenScores(*(packing.unpack(x_B1S[:, 0]) for x_B1S in scores))


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
    """Return log-probability and entropy from the states that predict each token.

    The vocabulary projection runs over `chunk` completion tokens at a time (chunked_head.py), so no
    [B, G, T, V] array ever exists. Where one chunk holds all tokens, their logits do exist, and the
    backward pass recomputes them.
    """
    head = Head(tuple(banned), temperature, chunk)
    whole = chunk >= tokens_BGT.shape[-1]
    by_token = jax.checkpoint(token_logprobs, static_argnums=3) if whole else chunked_logprobs
    logprobs, entropy = by_token(states_BGTD, kernel_DV, tokens_BGT, head)
    return TokenScores(jnp.where(mask_BGT, logprobs, 0.0), jnp.where(mask_BGT, entropy, 0.0))

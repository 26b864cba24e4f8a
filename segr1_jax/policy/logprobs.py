"""The one function that turns states into token probabilities, for sampling, old, reference, policy and SFT alike.

Banned ids and the temperature live here, so sampler and trainer cannot disagree about the distribution.

Shape legend: B prompts; G completions; T tokens; D hidden; V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from segr1_jax.policy.model import PromptBatch, Qwen25VL


class TokenScores(NamedTuple):
    """Per token: log-probability of the token that stands there, and entropy (nats) of the distribution it came from."""

    logprobs: Float[Array, "B G T"]
    entropy: Float[Array, "B G T"]


@jax.named_scope("head")
def distribution(
    states: Float[Array, "... D"], kernel_DV: Float[Array, "D V"], banned: Sequence[int], temperature: float
) -> Float[Array, "... V"]:
    """Float32 log-probabilities of the tempered distribution with `banned` ids impossible."""
    logits = jnp.einsum("...d,dv->...v", states, kernel_DV.astype(states.dtype), preferred_element_type=jnp.float32)
    logits = logits.at[..., jnp.array(banned, jnp.int32)].set(-jnp.inf) / temperature
    return jax.nn.log_softmax(logits, axis=-1)


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
    return score_states(states_BGTD, model.head_kernel(), tokens_BGT, mask_BGT, banned=banned, temperature=temperature, chunk=chunk)


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

    The vocabulary projection runs over `chunk` completion positions at a time, one chunk after the other, and is recomputed in the
    backward pass, so no [B, G, T, V] array ever exists.
    """

    @jax.checkpoint
    def head(states, tokens):
        logp = distribution(states, kernel_DV, banned, temperature)
        entropy = -jnp.sum(jnp.where(jnp.isfinite(logp), jnp.exp(logp) * logp, 0.0), axis=-1)
        return jnp.take_along_axis(logp, tokens[..., None], axis=-1)[..., 0], jax.lax.stop_gradient(entropy)

    logprobs, entropy = _by_chunks(head, chunk, states_BGTD, tokens_BGT)
    return TokenScores(jnp.where(mask_BGT, logprobs, 0.0), jnp.where(mask_BGT, entropy, 0.0))


def _by_chunks(head: Callable, chunk: int, states_BGTD, tokens_BGT):
    """`head` on `chunk` positions after the other: a scan, so that the memory of one chunk is free before the next begins."""
    T = tokens_BGT.shape[-1]
    if chunk >= T:
        return head(states_BGTD, tokens_BGT)

    def split(x):  # [B, G, T, ...] -> [chunks, B, G, chunk, ...]
        whole = jnp.pad(x, [(0, -T % chunk if axis == 2 else 0) for axis in range(x.ndim)])
        return jnp.moveaxis(whole.reshape(*x.shape[:2], -1, chunk, *x.shape[3:]), 2, 0)

    parts = jax.lax.map(lambda inputs: head(*inputs), (split(states_BGTD), split(tokens_BGT)))
    return (jnp.moveaxis(part, 0, 2).reshape(*part.shape[1:3], -1)[:, :, :T] for part in parts)

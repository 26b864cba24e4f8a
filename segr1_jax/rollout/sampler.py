"""Sampling of completions: one prefill per prompt, then a loop over tokens inside jit.

The loop ends with the longest completion.

Shape legend: B prompts; G completions per prompt; T longest completion; D hidden; V vocabulary;
L layers; K key/value heads; C head size.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from segr1_jax.policy.logprobs import Temperature, distribution
from segr1_jax.policy.params import Params, Policy
from segr1_jax.policy.qwen2_5_vl.model import OwnCache, PrefixCache, PromptBatch, Qwen25VL


class Samples(NamedTuple):
    """Sampled completions.

    `mask` covers each completion up to and including its end-of-turn token.
    """

    tokens: Int[Array, "B G T"]
    logprobs: Float[Array, "B G T"]
    mask: Bool[Array, "B G T"]
    finished: Bool[Array, "B G"]


class _Loop(NamedTuple):
    """State of the loop over tokens; `states` predict the tokens at index `step`."""

    step: Int[Array, ""]
    states: Float[Array, "B G D"]
    cache: OwnCache
    samples: Samples


def make_sampler(
    policy: Policy,
    *,
    group: int,
    max_tokens: int,
    end_tokens: Sequence[int],
    temperature: Temperature = 1.0,
    greedy: bool = False,
) -> Callable[[Params, PromptBatch, Array, Int[Array, " B"]], Samples]:
    """Return a pure function `(params, prompts, key, positions) -> Samples`.

    The caller jits it. The key of token t is `fold_in(fold_in(fold_in(key, position), g), t)`, with
    the prompt's position in the global order of samples. So the noise does not depend on batch
    layout, device count or process count, and it differs each time that an example is repeated.
    The first of `end_tokens` also fills the slots after the end of a completion. `greedy` takes the
    most likely token and reports its log-probability under the same distribution.
    """

    def sample(
        params: Params, prompts: PromptBatch, key: Array, positions_B: Int[Array, " B"]
    ) -> Samples:
        model = policy.bind(params)
        keys_BG = _completion_keys(key, positions_B, group)
        kernel_DV = model.head_kernel()
        states_BD, prefix = model.prefill(prompts)

        def choose(states_BGD, step):
            logp = distribution(states_BGD, kernel_DV, model.arch.never_sampled, temperature)
            tokens = jnp.argmax(logp, axis=-1) if greedy else _draw(keys_BG, step, logp)
            logprobs = jnp.take_along_axis(logp, tokens[..., None], axis=-1)[..., 0]
            return tokens.astype(jnp.int32), logprobs

        def advance(loop: _Loop) -> _Loop:
            tokens, logprobs = choose(loop.states, loop.step)
            samples = _append(loop.samples, loop.step, tokens, logprobs, end_tokens)
            states, cache = model.decode(tokens, loop.step, prompts, prefix, loop.cache)
            return _Loop(loop.step + 1, states, cache, samples)

        def unfinished(loop: _Loop):
            return (loop.step < max_tokens) & ~jnp.all(loop.samples.finished)

        start = _start(model, states_BD, prefix, group, max_tokens, end_tokens[0])
        return jax.lax.while_loop(unfinished, advance, start).samples

    return sample


def _completion_keys(key: Array, positions_B: Int[Array, " B"], group: int) -> Array:
    def one(position, g):
        return jax.random.fold_in(jax.random.fold_in(key, position), g)

    return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(positions_B, jnp.arange(group))


def _draw(
    keys_BG: Array, step: Int[Array, ""], logp_BGV: Float[Array, "B G V"]
) -> Int[Array, "B G"]:
    def one(key, logp_V):
        return jax.random.categorical(jax.random.fold_in(key, step), logp_V)

    return jax.vmap(jax.vmap(one))(keys_BG, logp_BGV)


def _append(samples: Samples, step, tokens_BG, logprobs_BG, end_tokens: Sequence[int]) -> Samples:
    """Write the tokens at index `step`; completions that have finished are unchanged."""
    alive_BG = ~samples.finished
    ends_BG = jnp.isin(tokens_BG, jnp.array(end_tokens, jnp.int32))
    return Samples(
        tokens=samples.tokens.at[:, :, step].set(jnp.where(alive_BG, tokens_BG, end_tokens[0])),
        logprobs=samples.logprobs.at[:, :, step].set(jnp.where(alive_BG, logprobs_BG, 0.0)),
        mask=samples.mask.at[:, :, step].set(alive_BG),
        finished=samples.finished | ends_BG,
    )


def _start(
    model: Qwen25VL, states_BD, prefix: PrefixCache, group: int, max_tokens: int, end_token: int
) -> _Loop:
    """Return the state before the first token: all completions start from the prefix's state."""
    L, B, _, K, C = prefix.k.shape
    empty = jnp.zeros((L, B, group, max_tokens, K, C), prefix.k.dtype)
    shape = (B, group, max_tokens)
    samples = Samples(
        tokens=jnp.full(shape, end_token, jnp.int32),
        logprobs=jnp.zeros(shape, jnp.float32),
        mask=jnp.zeros(shape, bool),
        finished=jnp.zeros((B, group), bool),
    )
    states_BGD = jnp.broadcast_to(states_BD[:, None], (B, group, states_BD.shape[-1]))
    return _Loop(jnp.int32(0), states_BGD, OwnCache(empty, empty), samples)

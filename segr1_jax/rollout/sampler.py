"""Sampling of completions: one prefill per prompt, then a loop over tokens.

The loop is cut into blocks of tokens, so that the host sees finished completions while others are
decoded (training/block_sampler.py). `make_sampler` is the same computation in one program.

Shape legend: B prompts; G completions per prompt; T longest completion; D hidden; V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from segr1_jax.policy.chunked_head import Temperature, tempered_logits
from segr1_jax.policy.decode_weights import SCANNED, DecodeLayout, decode_weights
from segr1_jax.policy.decoding import (
    OwnCache,
    Prefix,
    decode_token,
    empty_cache,
    grown,
    prefix_layout,
)
from segr1_jax.policy.params import Params, Policy
from segr1_jax.policy.qwen2_5_vl.model import PromptBatch
from segr1_jax.policy.qwen2_5_vl.text import suffix_rotary


class Samples(NamedTuple):
    """Sampled completions.

    `mask` covers each completion up to and including its end-of-turn token.
    """

    tokens: Int[Array, "B G T"]
    logprobs: Float[Array, "B G T"]
    mask: Bool[Array, "B G T"]
    finished: Bool[Array, "B G"]


class Prefilled(NamedTuple):
    """Results of the prefill that decoding reads, and the key of each completion."""

    prefix: Prefix
    next_position: Int[Array, " B"]
    keys: Array


class Decoding(NamedTuple):
    """State of the loop over tokens beside the caches; `states` predict the tokens at `step`."""

    step: Int[Array, ""]
    states: Float[Array, "B G D"]
    samples: Samples


@dataclass(frozen=True)
class Sampler:
    """Pure functions of one sampling distribution; the caller jits them.

    The key of token t is `fold_in(fold_in(fold_in(key, position), g), t)`, with the prompt's
    position in the global order of samples. So the noise does not depend on batch layout, device
    count or process count, and it differs each time that an example is repeated. The first of
    `end_tokens` also fills the slots after the end of a completion. `greedy` takes the most likely
    token and reports its log-probability under the same distribution.
    """

    policy: Policy
    group: int
    max_tokens: int
    end_tokens: tuple[int, ...]
    temperature: Temperature = 1.0
    greedy: bool = False
    layout: DecodeLayout = SCANNED

    def prefill(
        self, params: Params, prompts: PromptBatch, key: Array, positions_B: Int[Array, " B"]
    ) -> tuple[Prefilled, Decoding, OwnCache]:
        """Compute the prompts; returns what decoding reads, and its state and empty caches."""
        states_BD, cache = self.policy.bind(params).prefill(prompts)
        prefix = prefix_layout(cache.k, cache.v, cache.mask, self.layout)
        keys_BG = _completion_keys(key, positions_B, self.group)
        arch, rows = self.policy.arch.text, len(states_BD)
        own = empty_cache(arch, self.layout, rows, self.group, 0, self.policy.dtype)
        return Prefilled(prefix, prompts.next_position, keys_BG), self._start(states_BD), own

    def block(
        self,
        weights: Params,
        prefilled: Prefilled,
        state: Decoding,
        own: OwnCache,
        stop: Int[Array, ""],
    ) -> tuple[Decoding, OwnCache, Bool[Array, ""]]:
        """Decode up to the token at index `stop`, or until all completions have finished.

        The capacity of the caches bounds `stop`. Returns state and caches, and whether all
        completions have finished.
        """
        arch = self.policy.arch

        def advance(carry: tuple[Decoding, OwnCache]) -> tuple[Decoding, OwnCache]:
            state, own = carry
            tokens_BG, logprobs_BG = self._choose(weights, prefilled.keys, state)
            samples = _append(state.samples, state.step, tokens_BG, logprobs_BG, self.end_tokens)
            x_BGD = weights["embed"][tokens_BG]
            rotary_B1TC = suffix_rotary(arch.text, prefilled.next_position, state.step[None])
            rotary = jax.tree.map(lambda x_B1TC: x_B1TC[:, :, 0], rotary_B1TC)
            with jax.named_scope("decode"):
                states_BGD, own = decode_token(
                    weights,
                    arch.text,
                    self.layout,
                    x_BGD,
                    rotary,
                    state.step,
                    prefilled.prefix,
                    own,
                )
            return Decoding(state.step + 1, states_BGD, samples), own

        def unfinished(carry: tuple[Decoding, OwnCache]):
            state, _ = carry
            return (state.step < stop) & ~jnp.all(state.samples.finished)

        state, own = jax.lax.while_loop(unfinished, advance, (state, own))
        return state, own, jnp.all(state.samples.finished)

    def in_one_block(
        self,
        params: Params,
        weights: Params,
        prompts: PromptBatch,
        key: Array,
        positions_B: Int[Array, " B"],
    ) -> Samples:
        """Return whole completions; `weights` are prepared for decoding (decode_weights)."""
        prefilled, state, own = self.prefill(params, prompts, key, positions_B)
        own = grown(own, self.max_tokens)
        stop = jnp.int32(self.max_tokens)
        return self.block(weights, prefilled, state, own, stop)[0].samples

    @jax.named_scope("head")
    def _choose(self, weights: Params, keys_BG: Array, state: Decoding):
        """Return the next tokens and their log-probabilities."""
        head = weights.get("head.kernel")
        kernel_DV = weights["embed"].T if head is None else head
        banned = self.policy.arch.never_sampled
        logits_BGV = tempered_logits(state.states, kernel_DV, banned, self.temperature)
        # The log-probabilities themselves are never written out: [B, G, V] is the largest array of
        # a decoding step, and each use of the logits is one pass over it.
        total_BG = jax.nn.logsumexp(logits_BGV, axis=-1)
        best_BG = jnp.argmax(logits_BGV, axis=-1)
        tokens_BG = best_BG if self.greedy else _draw(keys_BG, state.step, logits_BGV)
        chosen_BG = jnp.take_along_axis(logits_BGV, tokens_BG[..., None], axis=-1)[..., 0]
        return tokens_BG.astype(jnp.int32), chosen_BG - total_BG

    def _start(self, states_BD: Float[Array, "B D"]) -> Decoding:
        """Return the state before the first token: all completions start from the prefix."""
        B, D = states_BD.shape
        shape = (B, self.group, self.max_tokens)
        samples = Samples(
            tokens=jnp.full(shape, self.end_tokens[0], jnp.int32),
            logprobs=jnp.zeros(shape, jnp.float32),
            mask=jnp.zeros(shape, bool),
            finished=jnp.zeros(shape[:2], bool),
        )
        states_BGD = jnp.broadcast_to(states_BD[:, None], (B, self.group, D))
        return Decoding(jnp.int32(0), states_BGD, samples)


def make_sampler(
    policy: Policy,
    *,
    group: int,
    max_tokens: int,
    end_tokens: Sequence[int],
    temperature: Temperature = 1.0,
    greedy: bool = False,
    layout: DecodeLayout = SCANNED,
) -> Callable[[Params, PromptBatch, Array, Int[Array, " B"]], Samples]:
    """Return a pure function `(params, prompts, key, positions) -> Samples`.

    It decodes in one block. The caller jits it. Keys and other arguments are those of Sampler.
    """
    sampler = Sampler(policy, group, max_tokens, tuple(end_tokens), temperature, greedy, layout)

    def sample(
        params: Params, prompts: PromptBatch, key: Array, positions_B: Int[Array, " B"]
    ) -> Samples:
        weights = decode_weights(policy, params, layout)
        return sampler.in_one_block(params, weights, prompts, key, positions_B)

    return sample


def _completion_keys(key: Array, positions_B: Int[Array, " B"], group: int) -> Array:
    def one(position, g):
        return jax.random.fold_in(jax.random.fold_in(key, position), g)

    return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(positions_B, jnp.arange(group))


def _draw(
    keys_BG: Array, step: Int[Array, ""], logits_BGV: Float[Array, "B G V"]
) -> Int[Array, "B G"]:
    def one(key, logits_V):
        return jax.random.categorical(jax.random.fold_in(key, step), logits_V)

    return jax.vmap(jax.vmap(one))(keys_BG, logits_BGV)


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

"""Sampling on the host: blocks of tokens on the device, one dispatched before the last is read.

The caches of the completions grow by buckets, because a decoding step reads a whole cache: at token
100 it reads 128 slots and not those of the longest completion. Each bucket is a program of its own,
and all of them are compiled at the first call.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from segr1_jax.policy.decode_weights import DecodeLayout
from segr1_jax.policy.decoding import OwnCache, Prefix, grown
from segr1_jax.policy.params import Params, Policy
from segr1_jax.policy.qwen2_5_vl.model import PromptBatch
from segr1_jax.policy.sharding import TRAIN_RULES
from segr1_jax.rollout.sampler import Decoding, Prefilled, Sampler, Samples
from segr1_jax.runtime.compiled_functions import Watched
from segr1_jax.runtime.mesh import Placement


class RolloutWeights(NamedTuple):
    """Weights of one rollout.

    Attributes:
        params: all weights as they are trained, for the prefill. It computes what the update
            computes of a prefix.
        decode: the copy that decoding reads (policy/decode_weights.py).
    """

    params: Params
    decode: Params


def steps_to(start: int, end: int, size: int) -> list[int]:
    """Return the numbers from `start` to `end` in steps of `size`, without `start`, with `end`.

    Example:
        >>> steps_to(0, 400, 128), steps_to(384, 400, 32)
        ([128, 256, 384, 400], [400])
    """
    return [*range(start + size, end, size), end]


@dataclass
class BlockSampler:
    """Compiled functions of one sampling distribution, and the loop over blocks.

    Attributes:
        sampler: the pure functions.
        shardings: of the results of `prefill`.
        prefill: (params, prompts, key, positions) -> (Prefilled, Decoding, caches of no token).
        grow: (caches, capacity) -> larger caches; the capacity is static.
        block: (weights, Prefilled, Decoding, caches, stop) -> (Decoding, caches, all have
            finished); the buffers of the caches are reused.
        block_tokens: tokens between two looks at the completions that have finished.
        bucket_tokens: tokens by which the caches grow.
    """

    sampler: Sampler
    shardings: tuple[Prefilled, Decoding, OwnCache]
    prefill: Watched[..., tuple[Prefilled, Decoding, OwnCache]]
    grow: Watched[[OwnCache, int], OwnCache]
    block: Watched[..., tuple[Decoding, OwnCache, jax.Array]]
    block_tokens: int = 32
    bucket_tokens: int = 128
    _is_warm: bool = field(default=False, init=False)

    def __call__(
        self,
        weights: RolloutWeights,
        prompts: PromptBatch,
        key: jax.Array,
        positions: jax.Array,
        watch: Callable[[Samples], None] | None = None,
    ) -> Samples:
        """Sample the completions of a batch; all processes call it together.

        `watch` gets the samples after each block but the last, while the next one is decoded.
        """
        prefilled, state, own = self.prefill(weights.params, prompts, key, positions)
        if not self._is_warm:
            # The first completions may be short, and a later one of any length must not compile.
            for _ in self._blocks(weights.decode, prefilled, state, own, dry=True):
                pass
            self._is_warm = True
        running: deque[tuple[Samples, jax.Array]] = deque()
        for samples, has_ended in self._blocks(weights.decode, prefilled, state, own):
            running.append((samples, has_ended))
            if len(running) > 1:
                # Another block is dispatched already: the device never waits for the host.
                earlier, all_ended = running.popleft()
                if bool(all_ended):
                    break
                if watch:
                    watch(earlier)
        return samples

    def _blocks(
        self,
        weights: Params,
        prefilled: Prefilled,
        state: Decoding,
        own: OwnCache,
        dry: bool = False,
    ) -> Iterator[tuple[Samples, jax.Array]]:
        """Yield samples and the end flag after each block; `dry` runs blocks of no token."""
        reached = 0
        for capacity in steps_to(0, self.sampler.max_tokens, self.bucket_tokens):
            own = self.grow(own, capacity)
            for stop in [0] if dry else steps_to(reached, capacity, self.block_tokens):
                state, own, has_ended = self.block(weights, prefilled, state, own, np.int32(stop))
                yield state.samples, has_ended
            reached = capacity


def make_block_sampler(
    name: str, sampler: Sampler, placement: Placement, jit: Callable[..., Watched]
) -> BlockSampler:
    """Return the compiled functions of `sampler`; `jit` is that of the engine.

    Their names begin with `name`.
    """
    rows, whole = placement.rows, placement.replicated
    leading = 0 if sampler.layout.unrolled else 1
    splits_heads = sampler.policy.arch.text.kv_heads % placement.mesh.shape["tensor"] == 0
    heads = TRAIN_RULES["kv_heads"] if splits_heads else None
    prefix, own = placement.rows_of(leading, heads), placement.rows_of(leading, None, heads)
    state = Decoding(whole, rows, rows)
    prefilled = Prefilled(Prefix(prefix, prefix, rows), rows, rows)
    results = (prefilled, state, OwnCache(own, own))
    return BlockSampler(
        sampler,
        results,
        prefill=jit(f"{name}_prefill", sampler.prefill, results),
        grow=jit(f"{name}_grow", grown, own, static_argnums=1),
        block=jit(f"{name}_block", sampler.block, (state, own, whole), donate_argnums=3),
    )


def decode_layout(placement: Placement, policy: Policy) -> DecodeLayout:
    """Return the layout of decoding on a mesh.

    Maps are joined unless the mesh splits heads. On GPUs the layers are unrolled, and attention in
    bfloat16 is cuDNN's.
    """
    return DecodeLayout(
        joined=placement.mesh.shape["tensor"] == 1,
        unrolled=placement.on_gpus,
        fused_attention=placement.on_gpus and policy.dtype == jnp.bfloat16,
    )

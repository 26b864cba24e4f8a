"""Log-probabilities of sampled completions under the reference policy, by micro-batch."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from segr1_jax.policy.params import Params
from segr1_jax.policy.qwen2_5_vl.model import PromptBatch
from segr1_jax.rollout.sampler import Samples
from segr1_jax.training.engine import Engine
from segr1_jax.training.micro_batches import MicroBatch
from segr1_jax.training.rollouts import Rollout


class Sampled(NamedTuple):
    """Prompts and completions on the mesh.

    Attributes:
        reference_logprobs: those of the sampler until a Reference has replaced them.
    """

    prompts: PromptBatch
    drawn: Samples
    reference_logprobs: jax.Array


def divide(engine: Engine, rollout: Rollout) -> list[MicroBatch]:
    """Return the micro-batches of a rollout, with the sampler's logprobs as the reference's."""
    tokens_B = np.array([sum(len(each.token_ids) for each in group) for group in rollout.groups])
    batch = Sampled(rollout.prompts, rollout.drawn, rollout.drawn.logprobs)
    return engine.micro_batches(batch, tokens_B)


class Reference:
    """The reference policy of a run: the weights that it began with, without adapters."""

    def __init__(self, engine: Engine, initial: Params, frozen: Params):
        self._engine = engine
        self._weights = engine.reference_weights(initial, frozen)
        self._is_warm = False

    def __call__(self, micros: Sequence[MicroBatch]) -> list[MicroBatch]:
        """Return the micro-batches with the logprobs of the reference policy, without waiting.

        The first call compiles the programs of all capacities.
        """
        if not self._is_warm:
            for capacity in {*self._engine.capacities} - {micro.capacity for micro in micros}:
                jax.block_until_ready(self._score(micros[0].batch, capacity))
            self._is_warm = True
        return [
            micro._replace(
                batch=micro.batch._replace(
                    reference_logprobs=self._score(micro.batch, micro.capacity)
                )
            )
            for micro in micros
        ]

    def _score(self, batch: Sampled, capacity: int) -> jax.Array:
        drawn = batch.drawn
        return self._engine.reference_logprobs(
            self._weights, batch.prompts, drawn.tokens, drawn.mask, capacity
        )

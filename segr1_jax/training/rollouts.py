"""A batch of prompts with the groups of completions that the policy samples for them."""

from collections.abc import Sequence
from typing import NamedTuple

from segr1_jax.data.pipeline import Sample
from segr1_jax.policy.qwen2_5_vl.model import PromptBatch
from segr1_jax.rollout.sampler import Samples
from segr1_jax.training.run import Run
from segr1_jax.training.scoring import GroupScorer
from segr1_jax.training.submission import Rewards
from segr1_jax.types import Completion


class Rollout(NamedTuple):
    """Records are of this process's rows, arrays of all rows on the mesh.

    Attributes:
        rewards: those of `groups`, once `send_rest` was called.
        refilled: groups of this process that replaced a dead one.
    """

    samples: list[Sample]
    prompts: PromptBatch
    drawn: Samples
    groups: list[list[Completion]]
    rewards: Rewards
    refilled: int = 0


def sample_groups(
    run: Run, scorer: GroupScorer, step: int, samples: Sequence[Sample], refill: int = 0
) -> Rollout:
    """Sample a group per prompt from the current weights; `refill` numbers a step's rollouts.

    Completions are sent for scoring as they finish.
    """
    engine = run.engine
    with run.timer("rollout"):
        prompts = engine.put_prompts([sample.prompt for sample in samples])
        prompts = engine.with_features(prompts, run.params)
        positions = engine.put_positions([sample.position for sample in samples])
        key = engine.rollout_key(step, refill)
        weights, submission = engine.rollout_weights(run.params), scorer.begin(samples)
        watch = submission.watch if scorer.sends_early else None
        drawn = engine.sampler(weights, prompts, key, positions, watch)
        groups = engine.completions(drawn, [sample.example.id for sample in samples], step - 1)
    return Rollout(list(samples), prompts, drawn, groups, submission)

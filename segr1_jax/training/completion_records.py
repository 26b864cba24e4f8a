"""Records of training completions for completions.jsonl."""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from segr1_jax.data.pipeline import Sample
from segr1_jax.metrics.held_out_figures import own_figure
from segr1_jax.objective.advantages import group_advantages
from segr1_jax.objective.config import ObjectiveConfig
from segr1_jax.reward.judging import Judged
from segr1_jax.training.step_figures import reward_arrays
from segr1_jax.types import Completion


def completion_records(
    samples: Sequence[Sample],
    groups: Sequence[Sequence[Completion]],
    judged: Sequence[Sequence[Judged]],
    objective: ObjectiveConfig,
    most: int,
) -> list[dict[str, Any]]:
    """Return records of the first `most` completions, group by group.

    Each has the sample, the text, its reward with every term, and its advantage. They are those
    that the policy was trained on, of this process.
    """
    if not most:
        return []
    advantages_BG = group_advantages(*reward_arrays(judged), objective.scale)

    def records() -> Iterator[dict[str, Any]]:
        for b, sample in enumerate(samples):
            for g, (completion, result) in enumerate(zip(groups[b], judged[b], strict=True)):
                reward = dataclasses.asdict(result.reward)
                own = {own_figure(name): value for name, value in reward.pop("own").items()}
                yield {
                    "position": sample.position,
                    "name": sample.example.name,
                    "instruction": sample.example.instruction,
                    "number": g,
                    "text": completion.text,
                    "tokens": len(completion.token_ids),
                    "finished": completion.finished,
                    **reward,
                    **own,
                    "parse": result.reward.parse.value,
                    "advantage": float(advantages_BG[b, g]),
                }

    return list(islice(records(), most))

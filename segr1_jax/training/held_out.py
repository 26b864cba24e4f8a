"""Evaluate weights on a held-out set through the engine, in batches of one fixed shape."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from segr1_jax.data.pipeline import Skipped, ahead_of, sweep
from segr1_jax.data.sources import Source
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.terms import Terms
from segr1_jax.runtime.mesh import sum_over_processes
from segr1_jax.training.block_sampler import RolloutWeights
from segr1_jax.training.engine import Engine
from segr1_jax.training.evaluation import Evaluation, Scorer, Watch, evaluate
from segr1_jax.types import Completion, Example, Prompt

FILLER = Example(id=0, name="filler", image=np.zeros((28, 28, 3), np.uint8), mask=None)


def scorer_of(engine: Engine, client: RewardClient) -> Scorer:
    """Return the scorer for the frames, the task and the reward of a run."""
    config = engine.config
    return Scorer(client, engine.builder.frame_of, config.prompt.task, Terms(config.reward))


def evaluate_weights(
    engine: Engine,
    weights: RolloutWeights,
    source: Source,
    client: RewardClient,
    skipped: Skipped,
    *,
    between: Callable[[], None] = lambda: None,
    watch: Watch = lambda texts, judged: None,
) -> Evaluation:
    """Score the greedy answers of `weights` on every example of `source`.

    `between` is called before each batch, by every process equally often; it may raise to end the
    evaluation. `watch` is given this process's answers, batch by batch.
    """
    rows_here = engine.config.eval_batch // jax.process_count()
    answerer = Answerer(engine, weights, rows_here, engine.builder.build(FILLER))
    batches = _equal_batches(engine, source, rows_here, skipped, between)
    scorer = scorer_of(engine, client)
    return evaluate(batches, answerer, scorer, len(source), sum_over_processes, watch)


@dataclasses.dataclass(frozen=True)
class Answerer:
    """Answer up to `rows` prompts greedily; `filler` pads the batch to its fixed shape."""

    engine: Engine
    weights: RolloutWeights
    rows: int
    filler: Prompt

    def __call__(self, prompts: Sequence[Prompt]) -> list[Completion]:
        padded = [*prompts, *[self.filler] * (self.rows - len(prompts))]
        on_mesh = self.engine.put_prompts(padded)
        # Greedy decoding ignores the keys.
        key, positions = self.engine.rollout_key(0), self.engine.put_positions(range(self.rows))
        samples = self.engine.answerer(self.weights, on_mesh, key, positions)
        groups = self.engine.completions(samples, [prompt.example_id for prompt in padded], 0)
        return [group[0] for group in groups][: len(prompts)]


def _equal_batches(
    engine: Engine, source: Source, rows: int, skipped: Skipped, between: Callable[[], None]
) -> Iterator[list[tuple[Example, Prompt]]]:
    """Yield the same number of batches in every process; the last ones may be short or empty."""
    processes = jax.process_count()
    found = sweep(
        source,
        engine.builder.build,
        batch=rows,
        process=jax.process_index(),
        processes=processes,
        ahead=ahead_of(engine.config.loader, source, engine.builder.prompt_bytes),
        skipped=skipped,
    )
    for _ in range(math.ceil(math.ceil(len(source) / processes) / rows)):
        between()
        yield [(sample.example, sample.prompt) for sample in next(found, [])]

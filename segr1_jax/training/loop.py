"""The order of the stages of training. Only the commands and the Python interface call it.

Example --prompt--> Prompt --rollout--> Completion --answer--> Answer | ParseStatus
  --reward--> Score | ScoreStatus --combine--> Reward --objective--> advantages, TrainBatch
  --update--> TrainState --runtime--> checkpoint
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from segr1_jax.config.schema import RunConfig
from segr1_jax.objective.advantages import group_advantages
from segr1_jax.objective.batch import GroupBatch, answer_batch
from segr1_jax.objective.loss import answer_loss, grpo_loss
from segr1_jax.objective.update import Totals, TrainBatch
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.judging import Judged
from segr1_jax.runtime.run_directory import incidents_of
from segr1_jax.training.accumulation import Accumulation
from segr1_jax.training.completion_records import completion_records
from segr1_jax.training.evaluation_files import was_evaluated
from segr1_jax.training.final_report import closing_report, show_ended_run
from segr1_jax.training.micro_batches import MicroBatch
from segr1_jax.training.reference import Reference, Sampled, divide
from segr1_jax.training.refill import refill
from segr1_jax.training.rollouts import Rollout, sample_groups
from segr1_jax.training.run import Run
from segr1_jax.training.scoring import Credit, GroupScorer
from segr1_jax.training.sft_samples import sft_prompt, sft_target
from segr1_jax.training.step_figures import group_figures, reward_arrays
from segr1_jax.training.update_guard import check_skips, keep_batch

Connect = Callable[..., RewardClient]  # (reward configuration, incidents) -> client
MakeScorer = Callable[[Run, RewardClient], GroupScorer]


def run_sft(config: RunConfig, *, connect: Connect = RewardClient) -> None:
    """Train on answers made from masks, the cold start; the loss is on the answer alone."""
    if show_ended_run(config):
        return
    # SAM2 first: where it cannot start, no run directory is made.
    with connect(config.reward, incidents_of(config)) as client, Run(config) as run:
        gradient = run.engine.gradient(answer_loss)
        builder = run.engine.builder
        _evaluate_at_start(run, client)
        for step, samples in run.steps(
            functools.partial(sft_prompt, config, builder),
            functools.partial(sft_target, config, builder),
        ):
            with run.timer("answers"):
                targets = [sample.target for sample in samples]
                answers = answer_batch(targets, config.rollout.max_tokens)
                prompts = run.engine.put_prompts([sample.prompt for sample in samples])
                prompts = run.engine.with_features(prompts, run.params)
                batch = TrainBatch(prompts, run.engine.placement.put_rows(answers))
            with run.timer("update"):
                tokens_B = np.array([len(target) for target in targets])
                micros = run.engine.micro_batches(batch, tokens_B)
                metrics = _update(run, step, _sum_gradients(run, gradient, micros))
            if metrics["skipped_update"]:
                record = {"tokens": answers.tokens, "mask": answers.mask}
                keep_batch(run.directory.incidents, step, metrics, samples, record)
            _close_step(run, client, step, metrics)
        closing_report(run, client)


def run_grpo(
    config: RunConfig, *, connect: Connect = RewardClient, make_scorer: MakeScorer = GroupScorer
) -> None:
    """Train by GRPO as Seg-R1 does: sample answers, score their masks, update the policy."""
    if show_ended_run(config):
        return
    # SAM2 first: where it cannot start, no run directory is made.
    with connect(config.reward, incidents_of(config)) as client, Run(config) as run:
        scorer = make_scorer(run, client)
        reference = _reference(run)
        gradient = run.engine.gradient(functools.partial(grpo_loss, objective=config.objective))
        _evaluate_at_start(run, client)
        for step, samples in run.steps():
            before = scorer.stats()
            scorer.encode(samples)
            rollout = sample_groups(run, scorer, step, samples)
            if config.rollout.refill:
                rollout = refill(run, scorer, step, rollout)
            # Dispatched before the rewards: it needs none, and runs while the masks are scored.
            micros = reference(divide(run.engine, rollout))
            learned = _accumulate(run, scorer, gradient, rollout, micros)
            metrics = _updates(run, scorer, gradient, step, learned)
            if metrics["skipped_update"]:
                record = _record(run, rollout, learned.judged)
                keep_batch(run.directory.incidents, step, metrics, rollout.samples, record)
            after = scorer.stats()
            run.tally.count_requests(after.totals, before.totals)
            run.log.completions(step, _completions(config, rollout, learned.judged))
            figures = group_figures(learned.judged, rollout.groups, rollout.refilled)
            sidecar = {f"sidecar/{key}": n for key, n in after.figures_since(before).items()}
            _close_step(run, client, step, metrics | figures | sidecar)
            scorer.check_quarantine()
        closing_report(run, client)


class _Learned:
    """A rollout with its rewards and the sum of its gradients.

    Attributes:
        judged: the rewards of this process's groups.
        micros: the micro-batches, each a TrainBatch.
        totals: the sum of the gradients; None before the first, and once an update has taken it.
    """

    def __init__(self, groups: int):
        self.judged: list[list[Judged]] = [[]] * groups
        self.micros: list[MicroBatch] = []
        self.totals: Totals | None = None

    def take_totals(self) -> Totals:
        """Return the totals and drop the reference to them, so that one gradient is alive."""
        totals, self.totals = self.totals, None
        return totals


def _reference(run: Run) -> Callable[[list[MicroBatch]], list[MicroBatch]]:
    """Return the reference policy; without a KL term micro-batches stay as they are."""
    if not run.config.objective.beta:
        return lambda micros: micros
    score = Reference(run.engine, run.initial_params(), run.frozen)

    def timed(micros: list[MicroBatch]) -> list[MicroBatch]:
        with run.timer("reference"):
            return score(micros)

    return timed


def _accumulate(
    run: Run,
    scorer: GroupScorer,
    gradient: Accumulation,
    rollout: Rollout,
    micros: Sequence[MicroBatch],
) -> _Learned:
    """Add up the gradient of a rollout, micro-batch by micro-batch, as their rewards arrive.

    A micro-batch is differentiated while the masks of the next one are scored.
    """
    learned = _Learned(len(rollout.samples))
    with run.timer("reward"):
        rows = np.concatenate([micro.rows for micro in micros])
        rollout.rewards.send_rest(rollout.groups, rows)
    with run.timer("reference"):
        jax.block_until_ready([micro.batch.reference_logprobs for micro in micros])
    for micro in micros:
        # At most one micro-batch is in flight: another would need its temporary memory too.
        with run.timer("update"):
            jax.block_until_ready(learned.totals)
        with run.timer("reward"):
            judged = rollout.rewards.of(micro.rows)
        for row, rewarded in zip(micro.rows, judged, strict=True):
            learned.judged[row] = rewarded
        with run.timer("update"):
            micro = micro._replace(batch=_train_batch(micro.batch, scorer.credit(judged)))
            learned.micros.append(micro)
            learned.totals = _add_gradient(run, gradient, learned.totals, micro)
    return learned


def _updates(
    run: Run, scorer: GroupScorer, gradient: Accumulation, step: int, learned: _Learned
) -> dict[str, Any]:
    """Make the updates of one rollout, and return the metrics of the last.

    `sampler_gap` is taken from the first, the only one in which the policy being updated is the
    policy that sampled.
    """
    with run.timer("update"):
        # The sidecar has nothing else to do now.
        scorer.encode(run.feed.upcoming())
        first = metrics = _update(run, step, learned.take_totals())
        for _ in range(1, run.config.objective.updates_per_rollout):
            # The same weights on the same batch would be skipped again.
            if metrics["skipped_update"]:
                break
            metrics = _update(run, step, _sum_gradients(run, gradient, learned.micros))
    return metrics | {"sampler_gap": first["sampler_gap"]}


def _sum_gradients(run: Run, gradient: Accumulation, micros: Iterable[MicroBatch]) -> Totals:
    """Return the gradient of a batch whose rewards are all known."""
    totals = None
    for micro in micros:
        totals = _add_gradient(run, gradient, totals, micro)
    return totals


def _add_gradient(
    run: Run, gradient: Accumulation, totals: Totals | None, micro: MicroBatch
) -> Totals:
    return gradient(totals, run.state.params, run.frozen, micro.batch, micro.capacity)


def _update(run: Run, step: int, totals: Totals) -> dict[str, Any]:
    """Make one update and return its metrics.

    Callers must not keep a reference to `totals`. It would keep a float32 gradient alive while the
    next one is accumulated or while a rollout or an evaluation holds gathered weights.
    """
    run.state, metrics = run.engine.moments.update(run.state, totals, step)
    return jax.device_get(metrics)


def _train_batch(sampled: Sampled, credit: Credit) -> TrainBatch:
    return TrainBatch(
        sampled.prompts,
        GroupBatch(
            tokens=sampled.drawn.tokens,
            mask=sampled.drawn.mask,
            weight=credit.weight,
            advantages=credit.advantages,
            sampler_logprobs=sampled.drawn.logprobs,
            reference_logprobs=sampled.reference_logprobs,
        ),
    )


def _completions(
    config: RunConfig, rollout: Rollout, judged: Sequence[Sequence[Judged]]
) -> list[dict[str, Any]]:
    """Return the records of the completions to log."""
    most = config.log.completions
    return completion_records(rollout.samples, rollout.groups, judged, config.objective, most)


def _record(
    run: Run, rollout: Rollout, judged: Sequence[Sequence[Judged]]
) -> dict[str, np.ndarray]:
    """Return the arrays of this process's rows to save for a skipped update."""
    drawn = rollout.drawn
    tokens_BGT, mask_BGT = run.engine.placement.get_rows((drawn.tokens, drawn.mask))
    rewards_BG, valid_BG = reward_arrays(judged)
    return {
        "texts": np.array([[completion.text for completion in group] for group in rollout.groups]),
        "tokens": tokens_BGT,
        "mask": mask_BGT,
        "rewards": rewards_BG,
        "valid": valid_BG,
        "advantages": group_advantages(rewards_BG, valid_BG, run.config.objective.scale),
    }


def _evaluate_at_start(run: Run, client: RewardClient) -> None:
    """Evaluate the initial weights, or the restored step if its evaluation is still due."""
    step, config = run.first_step, run.config
    is_due = run.is_due(step, config.eval_every) and not was_evaluated(run.directory, step)
    if config.eval_first if step == 0 else is_due:
        run.evaluate(step, client)


def _close_step(run: Run, client: RewardClient, step: int, figures: Mapping[str, Any]) -> None:
    """Log, save and evaluate where due.

    The step is saved before it is evaluated, so that a failed evaluation does not lose it. Once
    this process has made an update and an evaluation, nothing may compile any more.
    """
    run.finish(step, figures)
    # Check before saving, so that a resumed run repeats this step and hits the same fault.
    check_skips(figures, step, run.config.guard, run.directory.incidents)
    run.guard.check()
    if run.is_due(step, run.config.save_every):
        run.save(step)
    run.stop_if_asked(step)
    if run.is_due(step, run.config.eval_every):
        run.evaluate(step, client)
        run.guard.check()
    if run.has_evaluated:
        run.guard.warm()

"""The order of the stages, and the only module that knows it.

Example --prompt--> Prompt --rollout--> Completion --answer--> Answer | ParseStatus
  --reward client--> Reward --advantages--> TrainBatch --update--> TrainState --checkpoint--> params
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from segr1_jax.answer.coordinates import given_answer
from segr1_jax.answer.grammar import render
from segr1_jax.answer.targets import target_answer
from segr1_jax.config.schema import RunConfig
from segr1_jax.data.pipeline import Sample
from segr1_jax.errors import UserError
from segr1_jax.objective.advantages import completion_weights, group_advantages
from segr1_jax.objective.batch import GroupBatch, answer_batch
from segr1_jax.objective.loss import answer_loss, grpo_loss
from segr1_jax.objective.update import TrainBatch
from segr1_jax.policy.qwen2_5_vl.model import PromptBatch
from segr1_jax.reward import judging as judge
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.judging import AnswerText, Judged, Pending
from segr1_jax.rollout.sampler import Samples
from segr1_jax.runtime.mesh import max_over_processes
from segr1_jax.runtime.run_directory import incidents_of
from segr1_jax.train.engine import Accumulation
from segr1_jax.train.final_report import closing_report, show_ended_run
from segr1_jax.train.refill import Group, fill, is_dead, stack
from segr1_jax.train.run import Run
from segr1_jax.train.step_figures import group_figures, reward_arrays
from segr1_jax.train.update_guard import check_skips, keep_batch
from segr1_jax.types import Completion, Example, Frame, Prompt

_OnDevice = tuple[
    PromptBatch, Samples, jax.Array
]  # prompts, their completions, reference log-probabilities
_Taught = tuple[jax.Array, jax.Array]  # weights and advantages of these completions
QUARANTINE_SHARE = (
    0.01  # of a run's requests that may stay unscored, once they are more than the floor
)
QUARANTINE_FLOOR = 3  # images: all answers on them and their encoding


def run_sft(config: RunConfig) -> None:
    """Supervised cold start on answers made from masks; the loss is on the answer alone."""
    if show_ended_run(config):
        return
    # SAM2 first: where it cannot start, no run directory is made.
    with RewardClient(config.reward, incidents_of(config)) as client, Run(config) as run:
        engine = run.engine
        gradient = engine.gradient(answer_loss)
        _evaluate_at_start(run, client)
        for step, samples in run.steps(
            functools.partial(_lesson, run), functools.partial(_target_tokens, run)
        ):
            with run.timer("answers"):
                answers = answer_batch(
                    [sample.target for sample in samples], config.rollout.max_tokens
                )
                prompts = engine.put_prompts([sample.prompt for sample in samples])
                prompts = engine.with_features(prompts, run.params)
            with run.timer("update"):
                totals = None
                for micro in engine.micro_batches(
                    TrainBatch(prompts, engine.placement.put_rows(answers))
                ):
                    totals = gradient(totals, run.state.params, run.frozen, micro)
                run.state, metrics = engine.update(run.state, totals, step)
                # The gradient would otherwise lie beside the weights of an evaluation.
                del totals
                metrics = jax.device_get(metrics)
            if metrics["skipped_update"]:
                keep_batch(
                    run.directory.incidents,
                    step,
                    metrics,
                    samples,
                    {"tokens": answers.tokens, "mask": answers.mask},
                )
            _close_step(run, client, step, metrics)
        closing_report(run, client)


def run_grpo(config: RunConfig) -> None:
    """Seg-R1: sample a group of answers per image, reward their masks, step towards the better ones."""
    if show_ended_run(config):
        return
    # SAM2 first: where it cannot start, no run directory is made.
    with RewardClient(config.reward, incidents_of(config)) as client, Run(config) as run:
        engine = run.engine
        reference = (
            engine.reference_weights(run.initial_params(), run.frozen)
            if config.objective.beta > 0
            else None
        )
        gradient = engine.gradient(functools.partial(grpo_loss, objective=config.objective))
        _evaluate_at_start(run, client)
        for step, samples in run.steps():
            before = client.stats()
            rollout = _roll_out(run, client, step, samples)
            if config.rollout.refill:
                rollout = _refill(run, client, step, rollout)
            reference_logprobs = rollout.drawn.logprobs
            if (
                reference is not None
            ):  # dispatched first: it needs no reward, and runs while the masks are scored
                with run.timer("reference"):
                    reference_logprobs = engine.reference_logprobs(
                        reference, rollout.prompts, rollout.drawn.tokens, rollout.drawn.mask
                    )
            with run.timer("reward"):
                rewards = _rewards(run, client, rollout)
            with run.timer("reference"):
                jax.block_until_ready(reference_logprobs)
            totals, judged, taught = None, [[]] * len(rollout.samples), []
            on_device = (rollout.prompts, rollout.drawn, reference_logprobs)
            for rows, micro in zip(
                engine.micro_rows(), engine.micro_batches(on_device), strict=True
            ):
                with run.timer(
                    "update"
                ):  # a micro-batch is differentiated while the next one's masks are scored
                    jax.block_until_ready(totals)
                with run.timer("reward"):
                    judged[rows] = next(rewards)
                with run.timer("update"):
                    taught.append(_advantages(run, judged[rows]))
                    batch = _train_batch(micro, taught[-1])
                    totals = gradient(totals, run.state.params, run.frozen, batch)
            with run.timer("update"):
                _encode(run, client, run.upcoming())  # the sidecar has nothing else to do now
                run.state, metrics = engine.update(run.state, totals, step)
                # One float32 gradient lives at a time: this one goes before the next is begun, and
                # before the rollout gathers its weights.
                del totals, batch
                metrics = _further_updates(run, gradient, step, metrics, on_device, taught)
            if metrics["skipped_update"]:
                keep_batch(
                    run.directory.incidents,
                    step,
                    metrics,
                    rollout.samples,
                    _record(run, rollout, judged),
                )
            after = client.stats()
            run.tally.count_requests(after.totals, before.totals)
            figures = {
                f"sidecar/{name}": value for name, value in after.figures_since(before).items()
            }
            _close_step(
                run,
                client,
                step,
                metrics | group_figures(judged, rollout.groups, rollout.refilled) | figures,
            )
            _check_quarantine(run)
        closing_report(run, client)


class Rollout(NamedTuple):
    """A batch of prompts with their answers: records of this process's rows, arrays of all rows on the mesh."""

    samples: list[Sample]
    prompts: PromptBatch
    drawn: Samples
    groups: list[list[Completion]]
    judged: list[list[Judged]] | None = None  # where the rewards are known already
    refilled: int = 0  # groups of this process that took a dead one's place


def _roll_out(
    run: Run, client: RewardClient, step: int, samples: list[Sample], refill: int = 0
) -> Rollout:
    """Sample a group of answers per prompt from the current weights; `refill` counts rollouts of a step."""
    engine = run.engine
    _encode(run, client, samples)
    with run.timer("rollout"):
        prompts = engine.put_prompts([sample.prompt for sample in samples])
        prompts = engine.with_features(prompts, run.params)
        positions = engine.put_positions([sample.position for sample in samples])
        key = engine.rollout_key(step, refill)
        drawn = engine.sample(engine.rollout_weights(run.params), prompts, key, positions)
        groups = engine.completions(drawn, [sample.example.id for sample in samples], step - 1)
    return Rollout(samples, prompts, drawn, groups)


def _refill(run: Run, client: RewardClient, step: int, rollout: Rollout) -> Rollout:
    """Roll out fresh prompts, up to the bound, while a process has groups that teach nothing; then put the batch together anew."""
    engine, groups = run.engine, _scored_groups(run, client, rollout)
    first = groups
    for number in range(1, run.config.rollout.refill + 1):
        if not max_over_processes(sum(map(is_dead, groups))):
            break
        fresh = _roll_out(run, client, step, run.more(), number)
        groups = fill(groups, _scored_groups(run, client, fresh))
    with run.timer("rollout"):
        prompts = engine.put_prompts([group.sample.prompt for group in groups])
        prompts = engine.with_features(prompts, run.params)
        drawn = engine.placement.put_rows(stack(groups))
    refilled = sum(new is not old for new, old in zip(groups, first, strict=True))
    samples, completions, judged, _ = map(list, zip(*groups, strict=True))
    return Rollout(samples, prompts, drawn, completions, judged, refilled)


def _scored_groups(run: Run, client: RewardClient, rollout: Rollout) -> list[Group]:
    """The rows of this process, once all their rewards are there."""
    with run.timer("reward"):
        judged = _collect(run, client, _submit(run, client, rollout.samples, rollout.groups))
    drawn = zip(*run.engine.placement.get_rows(rollout.drawn), strict=True)
    return [
        Group(*parts[:-1], Samples(*parts[-1]))
        for parts in zip(rollout.samples, rollout.groups, judged, drawn, strict=True)
    ]


def _rewards(run: Run, client: RewardClient, rollout: Rollout) -> Iterator[list[list[Judged]]]:
    """Rewards of one micro-batch after the other: all are sent for scoring now, and waited for one by one, where not known yet."""
    micro_rows = run.engine.micro_rows()
    if rollout.judged is not None:
        return (rollout.judged[rows] for rows in micro_rows)
    pending = [
        _submit(run, client, rollout.samples[rows], rollout.groups[rows]) for rows in micro_rows
    ]
    return (_collect(run, client, ticket) for ticket in pending)


def _further_updates(
    run: Run,
    gradient: Accumulation,
    step: int,
    metrics: dict[str, jax.Array],
    on_device: _OnDevice,
    taught: Sequence[_Taught],
) -> dict[str, Any]:
    """After the first update on a rollout, make as many more on the same batch as configured.

    `metrics` are the first one's. Returns the last one's, but the sampler's gap from the first: it
    alone compares one policy with itself.
    """
    first = metrics = jax.device_get(metrics)
    for _ in range(1, run.config.objective.updates_per_rollout):
        # The same weights on the same batch would be skipped again.
        if metrics["skipped_update"]:
            break
        totals = None
        for micro in map(_train_batch, run.engine.micro_batches(on_device), taught):
            totals = gradient(totals, run.state.params, run.frozen, micro)
        run.state, metrics = run.engine.update(run.state, totals, step)
        del totals
        metrics = jax.device_get(metrics)
    return metrics | {"sampler_gap": first["sampler_gap"]}


def _sft_task(config: RunConfig, example: Example) -> str:
    """In which wording this example is asked."""
    return (
        config.sft.second_task if config.sft.second_task and example.id % 2 else config.prompt.task
    )


def _lesson(run: Run, example: Example) -> Prompt:
    return run.engine.builder.build(example, _sft_task(run.config, example))


def _target_tokens(run: Run, example: Example) -> Int[np.ndarray, " T"]:
    """What the policy should answer to this example: what the set says, or else what its mask says."""
    config, builder = run.config, run.engine.builder
    frame, task, sft = builder.frame_of(example), _sft_task(config, example), config.sft
    if example.answer is not None:
        side = config.data.answer_side
        seen = Frame(side, side) if side else example.frame
        text = given_answer(example.answer, seen, frame, task=task, name=example.name)
        return _fitting(run, example, builder.encode_answer(text))
    target = target_answer(
        example.mask,
        frame,
        interior=sft.interior_points,
        exterior=sft.exterior_points,
        box_margin=sft.box_margin,
        name=example.name,
    )
    return _fitting(run, example, builder.encode_answer(render(target, task=task)))


def _fitting(run: Run, example: Example, ids_T: Int[np.ndarray, " T"]) -> Int[np.ndarray, " T"]:
    """`ids_T`, unless they are too many for a completion."""
    most = run.config.rollout.max_tokens
    if len(ids_T) > most:
        expected = f"at most rollout.max_tokens = {most} tokens"
        remedy = "raise rollout.max_tokens or shorten the answer"
        where = f"{example.name}: answer"
        raise UserError(where, expected=expected, got=str(len(ids_T)), remedy=remedy)
    return ids_T


def _submit(
    run: Run,
    client: RewardClient,
    samples: Sequence[Sample],
    groups: Sequence[Sequence[Completion]],
) -> Pending:
    """Have the masks of these samples' completions scored."""
    texts = [
        AnswerText(s.example, c.text, c.finished)
        for s, group in zip(samples, groups, strict=True)
        for c in group
    ]
    config = run.config
    return judge.submit(
        client, texts, run.engine.builder.frame_of, config.prompt.task, legacy=config.reward.legacy
    )


def _collect(run: Run, client: RewardClient, pending: Pending) -> list[list[Judged]]:
    """Wait for the rewards of these samples' completions."""
    judged, group = (
        judge.collect(client, pending, run.config.reward.weights),
        run.config.rollout.group,
    )
    return [judged[start : start + group] for start in range(0, len(judged), group)]


def _advantages(run: Run, judged: Sequence[Sequence[Judged]]) -> _Taught:
    """Weights and advantages that this process's rewards make, as its rows of global arrays."""
    rewards_BG, valid_BG = reward_arrays(judged)
    weight_BG, advantages_BG = (
        completion_weights(valid_BG),
        group_advantages(rewards_BG, valid_BG, run.config.objective.scale),
    )
    return run.engine.placement.put_rows(
        (weight_BG.astype(np.float32), advantages_BG.astype(np.float32))
    )


def _train_batch(on_device: _OnDevice, taught: _Taught) -> TrainBatch:
    prompts, drawn, reference_logprobs = on_device
    return TrainBatch(
        prompts, GroupBatch(drawn.tokens, drawn.mask, *taught, drawn.logprobs, reference_logprobs)
    )


def _record(
    run: Run, rollout: Rollout, judged: Sequence[Sequence[Judged]]
) -> dict[str, np.ndarray]:
    """What to keep of this process's rows when their update was skipped."""
    tokens_BGT, mask_BGT = run.engine.placement.get_rows((rollout.drawn.tokens, rollout.drawn.mask))
    rewards_BG, valid_BG = reward_arrays(judged)
    return {
        "texts": np.array([[completion.text for completion in group] for group in rollout.groups]),
        "tokens": tokens_BGT,
        "mask": mask_BGT,
        "rewards": rewards_BG,
        "valid": valid_BG,
        "advantages": group_advantages(rewards_BG, valid_BG, run.config.objective.scale),
    }


def _encode(run: Run, client: RewardClient, samples: Sequence[Sample]) -> None:
    """Have the images of `samples` encoded ahead of their scores; those that are already cost nothing."""
    with run.timer("encode"):
        for sample in samples:
            judge.encode(client, sample.example, legacy=run.config.reward.legacy)


def _check_quarantine(run: Run) -> None:
    """A few masks that cannot be scored cost their completions; many mean that the sidecar, not the answers, is at fault."""
    totals = run.tally.requests
    allowed = max(
        QUARANTINE_SHARE * totals["scores"], QUARANTINE_FLOOR * (run.config.rollout.group + 1)
    )
    if totals["quarantined"] > allowed:
        got = f"{totals['quarantined']} beside {totals['scores']} scored ones"
        raise UserError(
            "reward sidecar",
            expected=f"at most {QUARANTINE_SHARE:.0%} of the requests in quarantine",
            got=got,
            remedy="look into incidents/ in the run directory; check reward.sam2_checkpoint, reward.max_side and the sidecar's memory",
        )


def _evaluate_at_start(run: Run, client: RewardClient) -> None:
    """Evaluate what a run begins with, or the step a run that was stopped did not come to."""
    step, config = run.first_step, run.config
    owed = run.is_due(step, config.eval_every) and not run.was_evaluated(step)
    if config.eval_first if step == 0 else owed:
        run.evaluate(step, client)


def _close_step(run: Run, client: RewardClient, step: int, figures: dict) -> None:
    """Log, save and evaluate where due, in this order: whatever happens to an evaluation, the step
    is saved. Once this process has made an update and an evaluation, nothing may compile any more.
    """
    run.finish(step, figures)
    # Both before the save: a resumed run meets the same fault again and cannot pass over it.
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

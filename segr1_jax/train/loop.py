"""The order of the stages, and the only module that knows it.

Example --prompt--> Prompt --rollout--> Completion --answer--> Answer | ParseStatus
  --reward client--> Reward --advantages--> TrainBatch --update--> TrainState --checkpoint--> params
"""

import functools
from collections import Counter
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Int

from segr1_jax import judge
from segr1_jax.answer import render, stray_points
from segr1_jax.data.pipeline import Sample
from segr1_jax.errors import UserError
from segr1_jax.grpo.advantages import completion_weights, group_advantages
from segr1_jax.grpo.batch import GroupBatch, answer_batch
from segr1_jax.grpo.loss import answer_loss, grpo_loss
from segr1_jax.judge import AnswerText, Judged, Pending
from segr1_jax.policy.model import PromptBatch
from segr1_jax.reward.client import RewardClient
from segr1_jax.rollout.sampler import Samples
from segr1_jax.sft import target_answer
from segr1_jax.train.closing import closing_report, show_ended_run
from segr1_jax.train.config import RunConfig
from segr1_jax.train.engine import Engine
from segr1_jax.train.mesh import sum_over_processes
from segr1_jax.train.run import Run
from segr1_jax.types import Completion
from segr1_jax.update import TrainBatch

TERMS = ("format", "iou", "s_measure")
QUARANTINE_SHARE = 0.01  # of a run's requests that may stay unscored, once they are more than the floor
QUARANTINE_FLOOR = 3  # images: all answers on them and their encoding


def run_sft(config: RunConfig) -> None:
    """Supervised cold start on answers made from masks; the loss is on the answer alone."""
    if show_ended_run(config):
        return
    with Run(config) as run, RewardClient(config.reward, run.directory.incidents) as client:
        engine = run.engine
        gradient = engine.gradient(answer_loss)
        _first_evaluation(run, client)
        for step, samples in run.steps():
            with run.timer("answers"):
                answers = answer_batch([_target_tokens(run, sample) for sample in samples], config.rollout.max_tokens)
                prompts, _ = engine.put_prompts([sample.prompt for sample in samples])
                prompts = engine.with_features(prompts, run.params)
            with run.timer("update"):
                totals = None
                for micro in engine.micro_batches(TrainBatch(prompts, engine.placement.put_rows(answers))):
                    totals = engine.accumulate(totals, gradient(run.state.params, run.frozen, micro))
                run.state, metrics = engine.update(run.state, totals)
                metrics = jax.device_get(metrics)
            _close_step(run, client, step, metrics)
        closing_report(run, client)


def run_grpo(config: RunConfig) -> None:
    """Seg-R1: sample a group of answers per image, reward their masks, step towards the better ones."""
    if show_ended_run(config):
        return
    with Run(config) as run, RewardClient(config.reward, run.directory.incidents) as client:
        engine = run.engine
        reference = engine.reference_weights(run.initial_params(), run.frozen) if config.objective.beta > 0 else None
        gradient = engine.gradient(functools.partial(grpo_loss, objective=config.objective))
        _first_evaluation(run, client)
        for step, samples in run.steps():
            before = client.stats()
            _encode(run, client, samples)
            with run.timer("rollout"):
                prompts, ids = engine.put_prompts([sample.prompt for sample in samples])
                prompts = engine.with_features(prompts, run.params)
                drawn = engine.sample(engine.rollout_weights(run.params), prompts, engine.step_key(step), ids)
                groups = engine.completions(drawn, [sample.example.id for sample in samples], step - 1)
            reference_logprobs = drawn.logprobs
            if reference is not None:  # dispatched first: it needs no reward, and runs while the masks are scored
                reference_logprobs = engine.reference_logprobs(reference, prompts, drawn.tokens, drawn.mask)
            with run.timer("reward"):
                pending = [_submit(run, client, samples[rows], groups[rows]) for rows in engine.micro_rows()]
            with run.timer("reference_wait"):
                jax.block_until_ready(reference_logprobs)
            totals, judged = None, [[]] * len(samples)
            micro_batches = engine.micro_batches((prompts, drawn, reference_logprobs))
            for rows, ticket, on_device in zip(engine.micro_rows(), pending, micro_batches, strict=True):
                with run.timer("update"):  # a micro-batch is differentiated while the next one's masks are scored
                    jax.block_until_ready(totals)
                with run.timer("reward"):
                    judged[rows] = _by_group(judge.collect(client, ticket, config.reward.weights), config.rollout.group)
                with run.timer("update"):
                    micro = _micro_batch(engine, *on_device, judged[rows])
                    totals = engine.accumulate(totals, gradient(run.state.params, run.frozen, micro))
            with run.timer("update"):
                _encode(run, client, run.upcoming())  # the sidecar has nothing else to do now
                run.state, metrics = engine.update(run.state, totals)
                totals, metrics = None, jax.device_get(metrics)  # else the gradient would lie beside the next rollout's weights
            figures = {f"sidecar/{name}": value for name, value in client.stats().figures_since(before).items()}
            _close_step(run, client, step, metrics | _group_figures(judged, groups) | figures)
            _check_quarantine(run, client)
        closing_report(run, client)


def _target_tokens(run: Run, sample: Sample) -> Int[np.ndarray, " T"]:
    """What the policy should have answered to this sample."""
    builder, sft, example = run.engine.builder, run.config.sft, sample.example
    target = target_answer(
        example.mask, builder.frame_of(example), interior=sft.interior_points, exterior=sft.exterior_points, name=example.name
    )
    return builder.encode_answer(render(target, task=run.config.prompt.task))


def _submit(run: Run, client: RewardClient, samples: Sequence[Sample], groups: Sequence[Sequence[Completion]]) -> Pending:
    """Have the masks of these samples' completions scored."""
    texts = [AnswerText(s.example, c.text, c.finished) for s, group in zip(samples, groups, strict=True) for c in group]
    config = run.config
    return judge.submit(client, texts, run.engine.builder.frame_of, config.prompt.task, legacy=config.reward.legacy)


def _by_group(judged: Sequence[Judged], group: int) -> list[list[Judged]]:
    return [list(judged[start : start + group]) for start in range(0, len(judged), group)]


def _micro_batch(
    engine: Engine, prompts: PromptBatch, drawn: Samples, reference_logprobs: jax.Array, judged: Sequence[Sequence[Judged]]
) -> TrainBatch:
    """What is on the devices already, with the advantages that this process's rewards make."""
    rewards_BG = np.array([[item.reward.total for item in group] for group in judged])
    valid_BG = np.array([[item.reward.valid for item in group] for group in judged])
    weight_BG, advantages_BG = completion_weights(valid_BG), group_advantages(rewards_BG, valid_BG)
    on_mesh = engine.placement.put_rows((weight_BG.astype(np.float32), advantages_BG.astype(np.float32)))
    return TrainBatch(prompts, GroupBatch(drawn.tokens, drawn.mask, *on_mesh, drawn.logprobs, reference_logprobs))


def _group_figures(groups_judged: Sequence[Sequence[Judged]], groups: Sequence[Sequence[Completion]]) -> dict[str, float]:
    """Means over all processes: reward and its terms, lengths, the share of each parse status and of groups that teach nothing."""
    judged = [item for group in groups_judged for item in group]
    rewards = [item.reward for item in judged]
    valid = np.array([reward.valid for reward in rewards])
    totals = np.ma.masked_array([reward.total for reward in rewards], ~valid)
    totals_BG = totals.reshape(len(groups), -1)
    figures = {name: np.ma.masked_array([getattr(reward, name) for reward in rewards], ~valid).mean() for name in TERMS}
    figures |= {"valid": valid.mean(), "reward": totals.mean(), "reward_std": totals_BG.std(axis=1, ddof=1).mean()}
    figures["dead_groups"] = np.mean(np.ptp(totals_BG, axis=1) == 0)
    figures["length"] = np.mean([len(completion.token_ids) for group in groups for completion in group])
    figures["stray_points"] = np.mean([stray_points(item.answer) if item.answer else 0 for item in judged])
    figures["finished"] = np.mean([completion.finished for group in groups for completion in group])
    statuses = Counter(reward.parse for reward in rewards)
    figures |= {f"parse/{status.value}": statuses[status] / len(rewards) for status in type(rewards[0].parse)}
    means = sum_over_processes(np.array(list(figures.values()), np.float64)) / jax.process_count()
    return dict(zip(figures, means.tolist(), strict=True))


def _encode(run: Run, client: RewardClient, samples: Sequence[Sample]) -> None:
    """Have the images of `samples` encoded ahead of their scores; those that are already cost nothing."""
    for sample in samples:
        judge.encode(client, sample.example, legacy=run.config.reward.legacy)


def _check_quarantine(run: Run, client: RewardClient) -> None:
    """A few masks that cannot be scored cost their completions; many mean that the sidecar, not the answers, is at fault."""
    totals = client.stats().totals
    allowed = max(QUARANTINE_SHARE * totals["scores"], QUARANTINE_FLOOR * (run.config.rollout.group + 1))
    if totals["quarantined"] > allowed:
        got = f"{totals['quarantined']} beside {totals['scores']} scored ones"
        raise UserError(
            "reward sidecar",
            expected=f"at most {QUARANTINE_SHARE:.0%} of the requests in quarantine",
            got=got,
            remedy="look into incidents/ in the run directory; check reward.sam2_checkpoint, reward.max_side and the sidecar's memory",
        )


def _first_evaluation(run: Run, client: RewardClient) -> None:
    if run.first_step == 0:
        run.evaluate(0, client)


def _close_step(run: Run, client: RewardClient, step: int, figures: dict) -> None:
    """Evaluate and save where due. Once this process has made an update and an evaluation, nothing may compile any more."""
    run.finish(step, figures)
    if not np.isfinite(figures["grad_norm"]):
        got = f"a gradient norm of {figures['grad_norm']} in step {step}"
        raise UserError(
            "training", expected="finite numbers", got=got, remedy="lower optimizer.learning_rate; earlier checkpoints are good"
        )
    if run.is_due(step, run.config.eval_every):
        run.evaluate(step, client)
    run.guard.check()  # before the save, so that a resumed run cannot pass over it
    if run.is_due(step, run.config.save_every):
        run.save(step)
    if run.has_evaluated:
        run.guard.warm()

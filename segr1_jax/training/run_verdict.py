"""The verdict of a run: what it trained, on what, and how far that moved the held-out IoU."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from segr1_jax.common.hub_ids import hub_id
from segr1_jax.config.portable import portable
from segr1_jax.config.schema import RunConfig
from segr1_jax.data.config import DataConfig
from segr1_jax.metrics.outcome import outcome
from segr1_jax.metrics.paired_rows import Pair
from segr1_jax.metrics.verdict import Verdict
from segr1_jax.reward.config import RewardConfig
from segr1_jax.runtime.lineage import only_synthetic, policy_name, runs_behind
from segr1_jax.training.run import Run

CONSTANT, PERFECT = "best constant answer", "prompt from the ground truth"
COMMANDS = {"sft": "sft", "grpo": "train"}
# Memorized samples were seen often, and have much better masks than those never seen.
MANY_PASSES, MUCH_BETTER, LAST_STEPS = 5, 0.2, 10
SYNTHETIC = "The policy was trained on synthetic pictures only; on photographs it may fail."


def run_verdict(
    run: Run,
    figures: Mapping[str, Mapping[str, float]],
    pairs: Sequence[Pair],
    lines: Sequence[Mapping[str, Any]],
) -> Verdict:
    """Return the verdict of a run that has ended.

    `figures` are the rows of the closing table by their names, `lines` those of metrics.jsonl.
    """
    config, stage = portable(run.config), run.config.stage.upper()
    steps = "1 step" if config.steps == 1 else f"{config.steps} steps"
    training = f"{steps} of {stage} on {named(config.data)}"
    before, after = figures.get(f"before {stage}"), figures[f"after {stage}"]
    found = outcome(training, before, after, pairs)
    notes = [*found.notes, _scale(figures)]
    notes += memorized(config.steps * config.batch, len(run.source), lines, after["iou"])
    if only_synthetic([config, *(runs_behind(run.start) or [])]):
        notes.append(SYNTHETIC)
    facts = {
        "Trained": _trained(config),
        "Starting from": policy_name(run.start),
        "Training data": f"{described(config.data)}: {_passes(config, len(run.source))}",
        "Held-out data": f"{described(config.eval_data)}: {len(run.held_out)} samples",
        "Masks by": _sam2(config.reward),
        "Duration": _duration(lines),
        "Hardware": _hardware(),
        "Command to repeat it": repeating(config),
    }
    return Verdict(found.sentence, found.figures, notes, facts)


def memorized(
    seen: int, count: int, lines: Sequence[Mapping[str, Any]], held_out: float
) -> list[str]:
    """Return a note if the policy seems to have memorized its samples, otherwise nothing.

    `seen` samples were drawn from `count`; `lines` are those of metrics.jsonl, and `held_out` is
    the IoU of samples that were never seen.
    """
    ious = [line["iou"] for line in lines if "iou" in line][-LAST_STEPS:]
    if seen < MANY_PASSES * count or not ious:
        return []
    trained = sum(ious) / len(ious)
    if trained - held_out < MUCH_BETTER:
        return []
    return [
        f"In the last {len(ious)} steps the training samples had an IoU of {trained:.3f}, after "
        f"{seen / count:.2g} passes over {count} samples: the policy seems to have memorized them. "
        "More samples help, more steps do not."
    ]


def named(data: DataConfig) -> str:
    """Return the name of a data set; of a path, the last two parts, of a repository its name."""
    if data.kind == "synthetic":
        return "synthetic pictures"
    if data.kind == "published":
        return data.set
    if repository := data.kind == "hub" and hub_id(data.path):
        return repository.repo
    return "/".join(Path(data.path or data.manifest or data.images).parts[-2:])


def described(data: DataConfig) -> str:
    """Return the name of a data set with what selects its samples."""
    parts = [named(data)]
    if data.kind == "synthetic":
        parts += [data.level, f"{data.size} px", f"seed {data.seed}"]
        parts += ["with sentences"] if data.sentences else []
    if data.kind in ("published", "hub"):
        parts.append(f"split {data.split}")
    if data.ids:
        parts.append(f"those in {Path(data.ids).name}")
    if data.part != "all":
        parts.append(f"part {data.part}")
    return ", ".join(parts)


def repeating(config: RunConfig) -> str:
    """Return the command that repeats a run in another directory."""
    place = config.run_dir.rstrip("/")
    words = ["segr1", COMMANDS[config.stage], place, f"run_dir={place}_again"]
    # Otherwise the second run would find the checkpoints of the first.
    if elsewhere := config.checkpoint_dir.rstrip("/"):
        words.append(f"checkpoint_dir={elsewhere}_again")
    return shlex.join(words)


def trained_seconds(lines: Sequence[Mapping[str, Any]]) -> tuple[float, int]:
    """Return the seconds of all logged steps, and their number.

    The time of a step is that of one since the previous logged step, with the evaluations and
    checkpoints in between. Runs that were resumed have the lines of all their processes.
    """
    seconds, last = 0.0, 0
    for line in lines:
        if "time/step_s" in line:
            seconds += line["time/step_s"] * (line["step"] - last)
            last = line["step"]
    return seconds, last


def _passes(config: RunConfig, count: int) -> str:
    return f"{count} samples, {config.steps * config.batch / count:.2g} passes"


def _scale(figures: Mapping[str, Mapping[str, float]]) -> str:
    constant, perfect = figures[CONSTANT]["iou"], figures[PERFECT]["iou"]
    return (
        f"For scale: the best answer that ignores the images has an IoU of {constant:.3f}, boxes "
        f"and points made from the truth have {perfect:.3f}."
    )


def _trained(config: RunConfig) -> str:
    lora = config.policy.lora
    weights = f"LoRA of rank {lora.rank}" if lora.rank else "all weights"
    if config.policy.tower == "frozen" and not lora.rank:
        weights = "all weights of the language model"
    sampled = f", {config.rollout.group} answers each" if config.stage == "grpo" else ""
    return f"{weights}, {config.steps} steps of {config.batch} samples{sampled}"


def _duration(lines: Sequence[Mapping[str, Any]]) -> str:
    seconds, steps = trained_seconds(lines)
    if not steps:
        return "no step is logged"
    hours, minutes = divmod(round(seconds / 60), 60)
    whole = f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else "under 1 min"
    return f"{whole} for {steps} steps with their evaluations ({seconds / steps:.3g} s a step)"


def _sam2(reward: RewardConfig) -> str:
    return reward.sam2 or Path(reward.sam2_config).stem or "the nano SAM2 of segr1_jax"


def _hardware() -> str:
    devices, processes = jax.devices(), jax.process_count()
    is_cpu = devices[0].platform == "cpu"
    here = f"{os.cpu_count()} CPU cores" if is_cpu else f"{len(devices)} {devices[0].device_kind}"
    return here if processes == 1 else f"{here}, {processes} processes"

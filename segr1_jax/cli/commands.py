"""Functions of the subcommands.

Implementations are imported after the configuration has been read and checked, so that `--help` and
the error for a misspelled key appear at once, without loading JAX.
"""

import argparse
import dataclasses
import sys
from collections import Counter
from pathlib import Path

from segr1_jax.common.hub_ids import hub_id
from segr1_jax.config.checks import check, check_reward_paths, require_fixed_frame
from segr1_jax.config.loading import load_config
from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError

REASONS_SHOWN = 5
ANSWERING = ("eval_data", "reward")  # sections that answers to the held-out set need


def sft(options: argparse.Namespace) -> int:
    """Run the supervised cold start."""
    return _run_stage(options, "sft")


def train(options: argparse.Namespace) -> int:
    """Run GRPO training."""
    return _run_stage(options, "grpo")


def evaluate(options: argparse.Namespace) -> int:
    """Evaluate a policy, or given predictions."""
    if options.predictions:
        return _rescore(options)
    config, source = _config_and_source(options)
    from segr1_jax.eval.evaluate import run_eval
    from segr1_jax.eval.suite import run_suite
    from segr1_jax.runtime.processes import end_together
    from segr1_jax.runtime.progress import show_markdown

    out = options.out or Path(config.run_dir) / "eval" / (options.suite or "held_out")
    _prepare(config)
    with end_together():
        config, source = _on_this_host(config, source, *ANSWERING)
        text = (run_suite if options.suite else run_eval)(config, source, out, options.protocol)
    if text:
        show_markdown(text)
        print(f"wrote {out}")
    return 0


def _rescore(options: argparse.Namespace) -> int:
    """Score the predictions of --predictions."""
    config = load_config(options.config, options.overrides)
    if options.suite or options.source:
        raise UserError(
            "--predictions",
            expected="neither --suite nor --source",
            got="one of the two",
            remedy="score one set at a time",
        )
    from segr1_jax.eval.rescore import run_rescore
    from segr1_jax.runtime.hub_files import with_local_files
    from segr1_jax.runtime.progress import show_markdown

    config = with_local_files(config, ANSWERING)
    out = options.out or Path(config.run_dir) / "eval" / "rescored"
    show_markdown(run_rescore(config, options.predictions, out, options.protocol))
    print(f"wrote {out}")
    return 0


def predict(options: argparse.Namespace) -> int:
    """Write masks for images; return 1 if an image could not be read."""
    if options.count is not None:
        _require_positive("--count", options.count)
    config, source = _config_and_source(options)
    out = options.out or Path(config.run_dir) / "samples" / "predict"
    from segr1_jax.infer.predict import run_predict

    _prepare(config)
    needed = ["reward"] if options.images else ANSWERING
    config, source = _on_this_host(config, source, *needed)
    predictions = run_predict(
        config,
        source,
        out,
        images=options.images,
        instruction=options.instruction,
        count=options.count,
        overlays=options.overlays,
    )
    counts = Counter(prediction.status for prediction in predictions)
    answers = ", ".join(f"{count} {status}" for status, count in counts.items())
    print(f"wrote {out}; answers: {answers}")
    reasons = [prediction.reason for prediction in predictions if prediction.reason]
    for reason in reasons[:REASONS_SHOWN]:
        print(reason, file=sys.stderr)
    if len(reasons) > REASONS_SHOWN:
        print(f"and {len(reasons) - REASONS_SHOWN} more", file=sys.stderr)
    return int(bool(reasons))


def demo(options: argparse.Namespace) -> int:
    """Serve the demo page until it is interrupted."""
    config, source = _config_and_source(options)
    from segr1_jax.infer.demo import run_demo

    _prepare(config)
    config, source = _on_this_host(config, source, "reward")
    run_demo(config, source, options.port)
    return 0


def score(options: argparse.Namespace) -> int:
    """Score the answers of a JSON lines file."""
    config = load_config(options.config, options.overrides)
    check_reward_paths(config.reward)
    from segr1_jax.eval.score import run_score
    from segr1_jax.hf.hub import with_local_sam2
    from segr1_jax.runtime.progress import show_markdown

    config = dataclasses.replace(config, reward=with_local_sam2(config.reward))
    show_markdown(run_score(config, options.answers, options.out, options.masks))
    print(f"wrote {options.out}")
    return 0


def export(options: argparse.Namespace) -> int:
    """Write a Hugging Face directory, or the adapters of a LoRA run, and push it if asked."""
    config, source = _config_and_source(options)
    out = options.out or Path(config.run_dir) / ("adapter" if options.adapter else "export")
    from segr1_jax.export.export import run_export, run_export_adapter
    from segr1_jax.hf.hub_push import check_push, push_folder
    from segr1_jax.runtime.hub_files import at_recorded_commits, local_source

    target = check_push(options.push) if options.push else None
    _prepare(config)
    config, source = at_recorded_commits(config), local_source(source, "--source")
    if options.adapter:
        run_export_adapter(config, source, out, overwrite=options.overwrite)
    else:
        run_export(
            config,
            source,
            out,
            layout=options.layout,
            overwrite=options.overwrite,
            check=options.check,
        )
    print(f"wrote {out}")
    if target:
        message = f"Export {Path(config.run_dir).name} with segr1_jax"
        print(f"pushed {push_folder(out, target, message, private=options.private)}")
    return 0


def plan(options: argparse.Namespace) -> int:
    """Print the plan of a run; return 1 if the run does not fit."""
    config = load_config(options.config, options.overrides)
    require_fixed_frame(config)
    from segr1_jax.common.files import write_atomically
    from segr1_jax.plan.command import plan_command
    from segr1_jax.plan.plan_table import markdown, to_json
    from segr1_jax.plan.run_plan import Verdict
    from segr1_jax.runtime.progress import show_markdown

    result = plan_command(
        config,
        compile_=options.compile,
        topology=options.topology,
        answer_tokens=options.answer_tokens,
    )
    if options.json:
        write_atomically(options.json, to_json(result))
    show_markdown(markdown(result))
    return int(result.verdict is Verdict.TOO_LARGE or bool(result.faults))


def profile(options: argparse.Namespace) -> int:
    """Profile some steps and write the table and the trace."""
    config = load_config(options.config, options.overrides)
    check(config)
    _require_positive("--steps", options.steps)
    from segr1_jax.common.files import write_atomically
    from segr1_jax.profile.command import profile_command
    from segr1_jax.profile.profile_table import markdown, to_json
    from segr1_jax.runtime.hub_files import with_local_files
    from segr1_jax.runtime.progress import show_markdown

    _prepare(config)
    config = with_local_files(config)
    result = profile_command(config, options.steps, options.peak_flops, options.hlo)
    write_atomically(Path(result.directory) / "profile.json", to_json(result))
    write_atomically(Path(result.directory) / "profile.md", markdown(result))
    show_markdown(markdown(result))
    return 0


def _run_stage(options: argparse.Namespace, stage: str) -> int:
    config = _stage_config(options, stage)
    from segr1_jax.api.training import train

    train(config)
    return 0


def _stage_config(options: argparse.Namespace, stage: str) -> RunConfig:
    config = load_config(options.config, options.overrides)
    if config.stage != stage:
        raise UserError(
            f"{options.config}: stage",
            expected=stage,
            got=config.stage,
            remedy=f"use `segr1 {_COMMAND[config.stage]}`, or set stage={stage}",
        )
    check(config)
    return config


def _require_positive(option: str, value: int) -> None:
    if value < 1:
        raise UserError(option, expected="at least 1", got=str(value), remedy="raise it")


def _prepare(config: RunConfig) -> None:
    from segr1_jax.api.runtime import prepare

    prepare(config)


_COMMAND = {"sft": "sft", "grpo": "train"}


def _config_and_source(options: argparse.Namespace) -> tuple[RunConfig, Path]:
    config = load_config(options.config, options.overrides)
    source = options.source or Path(config.run_dir)
    if not source.is_dir() and not (options.source and hub_id(str(source))):
        raise UserError(
            "--source" if options.source else "run_dir",
            expected="a directory",
            got=f"{source} (missing)",
            remedy="train first, or name a run, a Hugging Face directory or ORG/NAME with --source",
        )
    return config, source


def _on_this_host(config: RunConfig, source: Path, *sections: str) -> tuple[RunConfig, Path]:
    """Return both with local files in place of repositories on the Hub."""
    from segr1_jax.runtime.hub_files import local_source, with_local_files

    return with_local_files(config, sections), local_source(source, "--source")

"""The end of a run: the closing table, the skipped samples, the count of compilations."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from segr1_jax.answer import sam_prompts
from segr1_jax.eval.baselines import constant_figures, shuffled_figures, truth_figures
from segr1_jax.eval.run import Evaluation
from segr1_jax.eval.table import markdown_table
from segr1_jax.files import write_atomically
from segr1_jax.reward.client import RewardClient
from segr1_jax.train.config import RunConfig
from segr1_jax.train.held_out import scorer_of
from segr1_jax.train.load_config import differing_fields, load_config
from segr1_jax.train.progress import show_markdown
from segr1_jax.train.run import Run
from segr1_jax.train.rundir import RunDir
from segr1_jax.types import Example
from segr1_jax.viz import panel

BASELINE_MASKS = 400  # training masks the best constant box is fitted to
PANELS = 8


def show_ended_run(config: RunConfig) -> bool:
    """If this very run has ended before, print its table again and return True: the same command is then done in seconds."""
    directory = RunDir(Path(config.run_dir))
    if not directory.report.is_file() or differing_fields(load_config(directory.config), config):
        return False
    show_markdown(directory.report.read_text())
    return True


def closing_report(run: Run, client: RewardClient) -> None:
    """Write report.md and samples/, print the table, list bad samples; raise if anything compiled after warm-up."""
    last = run.final_evaluation(client)
    run.wait_saved()
    if jax.process_index() == 0:
        _save_panels(run, last)
        table = markdown_table(_rows(run, client, last))
        for name, reason in run.skipped.reasons.items():
            print(f"skipped {name}: {reason}", file=sys.stderr)
        run.guard.check()
        write_atomically(run.directory.report, f"# {run.directory.path.name}\n\n{table}\n")
        show_markdown(table)


def _rows(run: Run, client: RewardClient, last: Evaluation) -> dict[str, dict[str, float]]:
    """Before and after, beside what a blind and a perfect policy would get (baselines on this process's held-out images)."""
    sft, stage, scorer = run.config.sft, run.config.stage.upper(), scorer_of(run.engine, client)
    held_out = [item.example for item in last.texts]
    baselines = {
        "constant": constant_figures(scorer, _some_masks(run), held_out),
        "shuffled": shuffled_figures(scorer, last.texts),
        "truth": truth_figures(scorer, held_out, interior=sft.interior_points, exterior=sft.exterior_points),
    }
    for name, figures in baselines.items():
        write_atomically(run.directory.eval / f"{name}.json", json.dumps(figures, sort_keys=True) + "\n")
    return {
        "best constant answer": baselines["constant"],
        f"before {stage}": run.evaluation_figures(0),
        f"after {stage}": last.figures,
        f"after {stage}, answers given to another image": baselines["shuffled"],
        "prompt from the ground truth": baselines["truth"],
    }


def _some_masks(run: Run) -> list:
    return [run.source[index].mask for index in range(min(len(run.source), BASELINE_MASKS))]


def _save_panels(run: Run, last: Evaluation) -> None:
    """Image, prediction and truth side by side for the first held-out images."""
    for item, judged in list(zip(last.texts, last.judged, strict=True))[:PANELS]:
        example: Example = item.example
        prompts = sam_prompts(judged.answer, example.frame) if judged.answer else ()
        mask = np.zeros_like(example.mask) if judged.mask is None else judged.mask
        picture = panel(example.image, mask, example.mask, prompts)
        Image.fromarray(picture).save(run.directory.samples / f"held_out_{example.id:06d}.png")
        run.show(run.config.steps, f"held_out/{example.id}", picture)

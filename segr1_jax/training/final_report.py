"""The end of a run: the closing table, the skipped samples, the count of compilations."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from segr1_jax.common.drawing import panel
from segr1_jax.common.files import write_atomically
from segr1_jax.config.loading import load_config
from segr1_jax.config.resume_rules import same_run
from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError
from segr1_jax.metrics.tables import COLUMNS, figures_table, markdown_table
from segr1_jax.reward.client import RewardClient
from segr1_jax.runtime.mesh import sum_over_processes
from segr1_jax.runtime.processes import is_first, wait_for_all
from segr1_jax.runtime.progress import show_markdown
from segr1_jax.runtime.run_directory import RunDir
from segr1_jax.training.baselines import constant_rows, shuffled_rows, truth_rows
from segr1_jax.training.evaluation import Evaluation, answered, figures_everywhere
from segr1_jax.training.evaluation_files import evaluation_figures
from segr1_jax.training.evaluation_panels import PANELS, native_mask, native_prompts, native_truth
from segr1_jax.training.held_out import scorer_of
from segr1_jax.training.run import Run
from segr1_jax.training.run_page import own_figures, write_run_page
from segr1_jax.training.run_verdict import CONSTANT, PERFECT
from segr1_jax.types import Example

BASELINE_EXAMPLES = 400  # training samples the best constant answer is chosen on


def show_ended_run(config: RunConfig) -> bool:
    """Print the table if this run has already finished; return whether it has."""
    directory = RunDir(Path(config.run_dir))
    if not directory.report.is_file() or not same_run(load_config(directory.config), config):
        return False
    _show(directory)
    return True


def closing_report(run: Run, client: RewardClient) -> None:
    """Write report.md, report.html and samples/, and print the table and the unreadable samples."""
    last = run.final_evaluation(client)
    run.wait_saved()
    run.guard.check()
    rows = _rows(run, client, last)
    if is_first():
        _save_panels(run, client, last)
        reasons = run.tally.skipped.reasons | run.unreadable.reasons
        skipped = "".join(f"- skipped {name}: {reason}\n" for name, reason in reasons.items())
        columns = COLUMNS | {name: name for name in own_figures(run.config)}
        after = f"after {run.config.stage.upper()}"
        table = figures_table("Held-out set", rows, columns, skipped, after)
        verdict = write_run_page(run, client, rows, table)
        parts = [f"# {run.directory.path.name}", verdict.sentence, markdown_table(rows, columns)]
        # Last: a run with this file has ended.
        write_atomically(run.directory.report, "\n\n".join([*parts, skipped]).rstrip() + "\n")
        _show(run.directory)
    wait_for_all("closing report")


def _show(directory: RunDir) -> None:
    show_markdown(directory.report.read_text())
    print(f"wrote {directory.page}")


def _rows(run: Run, client: RewardClient, last: Evaluation) -> dict[str, dict[str, float]]:
    """Return figures before and after training, beside those of a blind and a perfect policy."""
    sft, stage, scorer = run.config.sft, run.config.stage.upper(), scorer_of(run.engine, client)

    def held_out() -> Iterator[Example]:
        return (item.example for item in answered(run.held_out, last.answers))

    makers = {
        "constant": lambda: constant_rows(scorer, _training_examples(run) or held_out, held_out()),
        "shuffled": lambda: shuffled_rows(scorer, run.held_out, last.answers),
        "truth": lambda: truth_rows(
            scorer, held_out(), interior=sft.interior_points, exterior=sft.exterior_points
        ),
    }
    found = {}
    for name, make in makers.items():
        found[name] = make()
        run.stop_if_asked(run.config.steps)
    baselines = {
        name: figures_everywhere(
            rows, len(run.held_out), sum_over_processes, scorer.terms.own_names
        )
        for name, rows in found.items()
    }
    for name, figures in baselines.items():
        if is_first():
            write_atomically(
                run.directory.eval / f"{name}.json", json.dumps(figures, sort_keys=True) + "\n"
            )
    before = evaluation_figures(run.directory, 0)
    return {
        CONSTANT: baselines["constant"],
        **({f"before {stage}": before} if before else {}),
        f"after {stage}": last.figures,
        f"after {stage}, answers given to another image": baselines["shuffled"],
        PERFECT: baselines["truth"],
    }


def _training_examples(run: Run) -> Callable[[], Iterator[Example]] | None:
    """Return a reader of the first training samples that can be read and have masks.

    None where no sample has one. All processes read the same.
    """

    def read() -> Iterator[Example]:
        for index in range(min(BASELINE_EXAMPLES, len(run.source))):
            try:
                example = run.source[index]
            except UserError as error:
                run.unreadable.add(run.source.names[index], error)
                continue
            if example.mask is not None:
                yield example

    return read if next(read(), None) is not None else None


def _save_panels(run: Run, client: RewardClient, last: Evaluation) -> None:
    """Save image, prediction and truth side by side for the first held-out images."""
    texts = answered(run.held_out, last.answers[:PANELS])
    for item, judged in scorer_of(run.engine, client).each(texts):
        picture = panel(
            item.example.image,
            native_mask(judged.mask, item.example),
            native_truth(item.example),
            native_prompts(judged.answer, item.example),
        )
        Image.fromarray(picture).save(run.directory.samples / f"held_out_{item.example.id:06d}.png")

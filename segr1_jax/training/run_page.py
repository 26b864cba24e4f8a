"""report.html of a run: its verdict, held-out samples before and after, curves, completions.

Masks are not stored: the sidecar makes those of the shown samples again from the stored texts.
"""

from collections.abc import Iterator, Mapping, Sequence

from segr1_jax.config.schema import RunConfig
from segr1_jax.metrics.completion_section import completion_section
from segr1_jax.metrics.held_out_figures import EvalRow, own_figure
from segr1_jax.metrics.paired_rows import Pair, best_median_worst, of_every_quality, paired_rows
from segr1_jax.metrics.report_page import write_report
from segr1_jax.metrics.sample_cards import ReportSample, ShownAnswer
from segr1_jax.metrics.tables import Table
from segr1_jax.metrics.verdict import Verdict
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.judging import AnswerText, Judged
from segr1_jax.reward.term_entries import own_entries
from segr1_jax.runtime.json_lines_log import complete_lines
from segr1_jax.runtime.metrics_log import read_metrics
from segr1_jax.training.evaluation_files import stored_rows
from segr1_jax.training.evaluation_panels import native_prompts, native_truth
from segr1_jax.training.held_out import scorer_of
from segr1_jax.training.run import Run
from segr1_jax.training.run_verdict import run_verdict
from segr1_jax.types import Example, ParseStatus

SAMPLES = 60  # that the reader can search
CURVES = (
    "eval/iou",
    "eval/s_measure",
    "eval/format",
    "reward",
    "iou",
    "format",
    "loss",
    "kl",
    "grad_norm",
    "length",
)


def write_run_page(
    run: Run, client: RewardClient, figures: Mapping[str, Mapping[str, float]], table: Table
) -> Verdict:
    """Write the page of a run that has ended, and return its verdict.

    `figures` are the rows of `table` by their names.
    """
    after = _of_this_set(run, stored_rows(run.directory, run.config.steps))
    pairs = paired_rows(stored_rows(run.directory, 0), after)
    lines = read_metrics(run.directory)
    curves = {
        name: [(line["step"], line[name]) for line in lines if name in line]
        for name in (*CURVES, *own_figures(run.config))
    }
    best, others = best_median_worst(pairs), of_every_quality(pairs, SAMPLES)
    verdict = run_verdict(run, figures, pairs, lines)
    write_report(
        run.directory.page,
        run.directory.path.name,
        [table],
        curves,
        _samples(run, client, others),
        verdict=verdict,
        highlights=_samples(run, client, list(best.values()), list(best)),
        sections=[completion_section(lambda: complete_lines(run.directory.completions))],
    )
    return verdict


def _of_this_set(run: Run, rows: Sequence[EvalRow]) -> list[EvalRow]:
    """Leave out rows that an earlier call with more processes or another eval_limit wrote."""
    names = dict(enumerate(run.held_out.names))
    return [row for row in rows if names.get(row.example_id) == row.name]


def own_figures(config: RunConfig) -> list[str]:
    """Return the names of the figures of a run's own terms of the reward."""
    return [own_figure(entry.function) for entry in own_entries(config.reward.terms)]


def _samples(
    run: Run, client: RewardClient, pairs: Sequence[Pair], ranks: Sequence[str] = ()
) -> Iterator[ReportSample]:
    """Yield samples with their masks; a few images are alive at a time."""

    def texts() -> Iterator[AnswerText]:
        for pair in pairs:
            example = run.held_out[pair.after.example_id]
            for row in filter(None, pair):
                is_finished = row.parse is not ParseStatus.UNFINISHED
                yield AnswerText(example, row.text, is_finished)

    judged = scorer_of(run.engine, client).each(texts())
    for index, pair in enumerate(pairs):
        (item, result), *earlier = [next(judged) for _ in filter(None, pair)]
        example = item.example
        yield ReportSample(
            example.name,
            example.instruction,
            _shown(example, pair.after, result),
            example.image,
            native_truth(example),
            _shown(example, pair.before, earlier[0][1]) if pair.before else None,
            rank=ranks[index] if ranks else "",
        )


def _shown(example: Example, row: EvalRow, judged: Judged) -> ShownAnswer:
    prompts = native_prompts(judged.answer, example)
    return ShownAnswer(row.text, row.parse.value, row.iou, judged.mask, prompts)

"""Facts of a verdict: duration, data and command; and the stored rows that it is made from."""

import itertools
import json

import pytest

from segr1_jax.config.loading import load_config
from segr1_jax.config.schema import RunConfig
from segr1_jax.data.config import DataConfig
from segr1_jax.errors import UserError
from segr1_jax.metrics.held_out_figures import EvalRow
from segr1_jax.runtime.run_directory import RunDir, make_run_dir
from segr1_jax.training.evaluation import Evaluation
from segr1_jax.training.evaluation_files import stored_rows, write_evaluation
from segr1_jax.training.run_verdict import described, memorized, repeating, trained_seconds
from segr1_jax.types import ParseStatus


def test_the_time_of_a_line_is_that_of_each_step_since_the_line_before():
    lines = [
        {"step": 0, "eval/iou": 0.5},
        {"step": 5, "time/step_s": 2.0},
        {"step": 10, "time/step_s": 3.0},
        {"step": 10, "eval/iou": 0.6},
        {"step": 12, "time/step_s": 10.0},
    ]
    assert trained_seconds(lines) == (10 + 15 + 20, 12)
    assert trained_seconds([]) == (0, 0)


def test_memorized_samples_are_seen_often_and_have_better_masks_than_others():
    lines = [{"step": step, "iou": 0.3} for step in range(20)]
    lines += [{"step": step, "iou": 0.8} for step in range(20, 30)] + [{"step": 30, "eval/iou": 0}]
    (note,) = memorized(2560, 36, lines, held_out=0.5)
    assert "IoU of 0.800, after 71 passes over 36 samples" in note
    assert not memorized(2560, 36, lines, held_out=0.65)
    assert not memorized(2560, 640, lines, held_out=0.5)
    assert not memorized(2560, 36, [{"step": 1, "loss": 2.0}], held_out=0.5)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (DataConfig(sentences=True), "synthetic pictures, bright, 168 px, seed 0, with sentences"),
        (DataConfig(kind="jsonl", manifest="/home/me/x/train.jsonl"), "x/train.jsonl"),
        (
            DataConfig(kind="folder", images="/a/ECSSD/images", ids="/a/dev.txt"),
            "ECSSD/images, those in dev.txt",
        ),
        (DataConfig(kind="published", set="cod10k", split="train"), "cod10k, split train"),
        (DataConfig(kind="hub", path=f"me/fish@{'b' * 40}", split="train"), "me/fish, split train"),
        (DataConfig(kind="hub", path="/data/fish/x.parquet"), "fish/x.parquet, split test"),
        (
            DataConfig(kind="folder", images="b/images", part="train", hold_out=0.1),
            "b/images, part train",
        ),
    ],
)
def test_data_in_words_without_the_folders_of_the_machine(data, words):
    assert described(data) == words


def test_the_command_repeats_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = RunConfig(run_dir="my run/", seed=5)
    make_run_dir(made)
    assert repeating(made) == "segr1 train 'my run' 'run_dir=my run_again'"
    again = load_config("my run", ["run_dir=my run_again"])
    assert (again.seed, again.run_dir) == (5, "my run_again")


def rows(*ids: int) -> list[EvalRow]:
    return [
        EvalRow(index, f"photo {index}", "a\u2028b", ParseStatus.BAD_BOX, own={"few": 0.5})
        for index in ids
    ]


def test_rows_of_all_processes_are_read_as_written(tmp_path, monkeypatch):
    run = make_run_dir(RunConfig(run_dir=str(tmp_path / "run")))
    for process, ids in enumerate([(0, 2), (1, 3)]):
        monkeypatch.setattr("jax.process_index", itertools.repeat(process).__next__)
        write_evaluation(run, 7, Evaluation({}, rows(*ids), []))
    assert stored_rows(run, 7) == rows(0, 1, 2, 3)
    assert stored_rows(run, 8) == []


@pytest.mark.parametrize("line", ["{", "[]", json.dumps({"parse": "ok"}), '{"parse": "new"}'])
def test_a_damaged_file_is_named(tmp_path, line):
    run = RunDir(tmp_path)
    run.eval.mkdir()
    (run.eval / "step_000000.rows_0.jsonl").write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"step_000000\.rows_0\.jsonl"):
        stored_rows(run, 0)

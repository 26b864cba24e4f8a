"""Evaluation of a set: kills and resumes, bad files, other weights, re-scoring.

The reference code's choices are tested too. The sidecar is real.
"""

import json
import math
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from small_set import BREAKS, COUNT, GOOD, HALF_PAIR, HOSTILE, config_of, contents

from segr1_jax.data.file_entries import Entry, FileSource
from segr1_jax.data.sets.toy import write_toy_sets
from segr1_jax.errors import UserError
from segr1_jax.eval.evaluate import run_eval
from segr1_jax.eval.rescore import run_rescore
from segr1_jax.eval.suite import run_suite
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.infer import responder as answering
from segr1_jax.infer.resumable_lines import write_lines
from segr1_jax.metrics.predictions import Prediction, read_predictions, write_mask
from segr1_jax.metrics.sample_protocol import as_the_reference_code

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("compile_quickly", "one_device")]


def test_a_corrupt_image_in_the_middle_is_listed_and_counted(folder, scripted, tmp_path):
    text = run_eval(config_of(folder), folder / "tiny", tmp_path / "out", "standard")
    assert "| 5 |" in text, "5 of 7 samples are in the figures"
    assert "Could not be read: 2" in text
    assert "Could not be read: 4" in text
    predictions = list(read_predictions(tmp_path / "out/predictions.jsonl"))
    assert [prediction.name for prediction in predictions] == [str(index) for index in range(COUNT)]
    assert [prediction.status for prediction in predictions] == [
        "ok",
        "ok",
        "skipped",
        "ok",
        "skipped",
        "ok",
        "missing_think",
    ]
    scores = [json.loads(line) for line in (tmp_path / "out/scores.jsonl").read_text().splitlines()]
    assert [(row["name"], row["iou"] > 0, row["mae"] == 1) for row in scores[-2:]] == [
        ("5", True, False),
        ("6", False, True),
    ]
    page = (tmp_path / "out/report.html").read_text()
    mean = sum(row["iou"] for row in scores) / len(scores)
    assert f"The answers have a mean IoU of {mean:.3f} on {len(scores)} samples" in page
    assert "alert(1)</script></textarea>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&lt;/textarea&gt;" in page


def test_killed_and_resumed_gives_the_same_bytes(folder, scripted, tmp_path, monkeypatch):
    run_eval(config_of(folder), folder / "tiny", tmp_path / "whole", "standard")
    predict, calls = answering._predict, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(*arguments)

    monkeypatch.setattr(answering, "_predict", killed)
    with pytest.raises(KeyboardInterrupt):
        run_eval(config_of(folder), folder / "tiny", tmp_path / "cut", "standard")
    (part,) = (tmp_path / "cut").glob(".predictions*")
    assert part.read_bytes().count(b"\n") == 4
    part.write_bytes(
        part.read_bytes()[:-9]
    )  # a line that was not written to its end: its batch is answered again
    run_eval(config_of(folder), folder / "tiny", tmp_path / "cut", "standard")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_predictions_of_another_policy_are_not_mixed_in(folder, scripted, tmp_path):
    run_eval(config_of(folder), folder / "tiny", tmp_path / "out", "standard")
    make_tiny_policy(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="other weights"):
        run_eval(config_of(folder), tmp_path / "other", tmp_path / "out", "standard")
    with pytest.raises(UserError, match="other prompt"):
        run_eval(
            config_of(folder, "prompt.max_tokens=70"), folder / "tiny", tmp_path / "out", "standard"
        )


@pytest.mark.parametrize(("total", "rows"), [(7, 2), (8, 2), (1, 3), (5, 1)])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_parts_of_several_processes_are_one_file(tmp_path, monkeypatch, total, rows, processes):
    """Each process by itself, the first one last: it joins the parts."""
    for process in [*range(1, processes), 0]:
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        monkeypatch.setattr(jax, "process_count", lambda: processes)
        monkeypatch.setattr("segr1_jax.infer.resumable_lines.wait_for_all", lambda _: None)
        monkeypatch.setattr(
            "segr1_jax.infer.resumable_lines.max_over_processes", lambda value: value
        )
        batches = []

        def lines_from(positions, count, batches=batches):
            for _ in range(count):
                batch, positions = positions[:rows], positions[rows:]
                batches.append(len(batch))
                yield [f"{position}\n" for position in batch]

        (tmp_path / "out").mkdir(exist_ok=True)
        write_lines(tmp_path / "out", {"of": "all"}, total, rows, lines_from)
        assert len(batches) == math.ceil(math.ceil(total / processes) / rows), (
            "equally many in every process"
        )
    assert (tmp_path / "out/predictions.jsonl").read_text() == "".join(
        f"{position}\n" for position in range(total)
    )


def test_rescoring_masks_and_answers_gives_the_same_figures(folder, scripted, tmp_path):
    config = config_of(folder)
    ours = run_eval(config, folder / "tiny", tmp_path / "out", "standard")
    masks = run_rescore(config, tmp_path / "out/masks", tmp_path / "masks", "standard")
    lines = [
        json.dumps({"name": str(index), "answer": GOOD if index < COUNT - 1 else HOSTILE})
        for index in range(COUNT)
    ]
    (tmp_path / "answers.jsonl").write_text("\n".join(lines[::-1]))
    answers = run_rescore(config, tmp_path / "answers.jsonl", tmp_path / "answers", "standard")
    row = next(line for line in ours.splitlines() if line.startswith("| these"))
    assert row in masks
    assert row in answers
    for given in ("out", "out/predictions.jsonl"):
        assert row in run_rescore(config, tmp_path / given, tmp_path / "again", "standard")
        assert (tmp_path / "again/scores.jsonl").read_bytes() == (
            tmp_path / "out/scores.jsonl"
        ).read_bytes()


def test_rescoring_lists_what_is_missing_or_surplus_and_counts_what_is_resized(folder, tmp_path):
    masks = shutil.copytree(folder / "masks", tmp_path / "masks")
    (masks / "0.png").unlink()
    (masks / "1.png").rename(masks / "other.png")
    Image.new("L", (5, 5)).save(masks / "3.png")
    text = run_rescore(config_of(folder), masks, tmp_path / "out", "standard")
    assert "1 predictions belong to no sample: other" in text
    assert "2 samples have no prediction: 0, 1" in text
    assert "1 predictions were resized to their truth." in text
    scores = {
        row["name"]: row["status"]
        for row in map(json.loads, (tmp_path / "out/scores.jsonl").read_text().splitlines())
    }
    assert scores == {"0": "missing", "1": "missing", "3": "ok", "5": "ok", "6": "ok"}
    with pytest.raises(UserError, match="absent"):
        run_rescore(config_of(folder), tmp_path / "absent", tmp_path / "out", "standard")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="such as 0, got none at all"):
        run_rescore(config_of(folder), tmp_path / "empty", tmp_path / "out", "standard")
    with pytest.raises(UserError, match="the pictures images/0 and masks/0"):
        run_rescore(config_of(folder), folder, tmp_path / "out", "standard")


def test_texts_with_line_breaks_or_half_characters_are_one_line(tmp_path):
    written = [
        Prediction("a", "ok", answer=BREAKS, instruction=BREAKS),
        Prediction(HALF_PAIR, "ok"),
    ]
    (tmp_path / "p.jsonl").write_text(
        "".join(prediction.line() for prediction in written), encoding="utf-8"
    )
    assert list(read_predictions(tmp_path / "p.jsonl")) == written


def test_masks_of_hostile_names_stay_in_the_folder(tmp_path):
    for name in ("../../x", "/x", "a/../../b", "."):
        written = tmp_path / "out" / write_mask(tmp_path / "out", name, np.ones((2, 2), bool))
        assert (tmp_path / "out/masks") in written.resolve().parents
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_choices_of_the_reference_code():
    def prediction(number: int, mask: bool = True, photo: str = "") -> Prediction:
        return Prediction(
            str(number),
            "ok" if mask else "bad_box",
            photo or f"{number}.jpg",
            mask=f"{number}.png" if mask else None,
        )

    foreground = as_the_reference_code(
        [prediction(n, mask=n not in (0, 2, 3)) for n in range(5)], "foreground"
    )
    assert [item.prediction.mask for item in foreground] == [
        None,
        "1.png",
        "1.png",
        "1.png",
        "4.png",
    ]
    referring = as_the_reference_code(
        [prediction(n, photo=f"{n // 3}.jpg") for n in range(9)], "referring"
    )
    assert [item.index // 3 for item in referring] == [0, 1, 2]
    reasoning = as_the_reference_code([prediction(n) for n in range(50)], "reasoning")
    assert len(reasoning) == 50 > len({item.index for item in reasoning})
    assert all(
        item.prediction.name == str(item.index) for item in (*foreground, *referring, *reasoning)
    )


def test_photos_of_relative_and_absolute_paths_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entries = [Entry("a", Path("x/a.png"), None), Entry("b", tmp_path / "b.png", None)]
    assert answering._photos(FileSource(entries)) == {"a": "x/a.png", "b": "b.png"}


def test_a_suite_without_any_set_is_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for root in ("", tmp_path / "absent", tmp_path / "empty"):
        config = config_of(folder, f"eval_data.root={root}")
        with pytest.raises(UserError, match=r"eval_data\.root: expected the folder of all sets"):
            run_suite(config, folder / "tiny", tmp_path / "out", "standard")


@pytest.mark.slow
def test_the_suite_fills_every_table_and_names_what_is_absent(folder, scripted, tmp_path):
    write_toy_sets(tmp_path / "toy")
    shutil.rmtree(tmp_path / "toy/HKU-IS")
    config = config_of(
        folder, f"eval_data.root={tmp_path / 'toy'}", "prompt.max_tokens=224", "eval_batch=4"
    )
    text = run_suite(config, folder / "tiny", tmp_path / "out", "standard")
    ours = [line for line in text.splitlines() if line.startswith("| this policy")]
    assert len(ours) == 5
    assert [line.count("| - ") for line in ours] == [0, 4, 0, 0, 0]
    assert "HKU-IS test: " in text
    assert (
        str(tmp_path)
        not in text
        + (tmp_path / "out/tables.json").read_text()
        + (tmp_path / "out/tables.html").read_text()
    )
    record = json.loads((tmp_path / "out/tables.json").read_text())
    assert record["tables"][2]["published"]["Seg-R1-7B"][0] == 78.7
    assert run_suite(config, folder / "tiny", tmp_path / "out", "standard") == text

"""Predictions: one folder of masks, overlays and lines, with bad files and after kills."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from small_set import COUNT, SIDE, config_of, contents

from segr1_jax.common.drawing import reduced
from segr1_jax.errors import UserError
from segr1_jax.infer import responder as answering
from segr1_jax.infer.image_paths import named_pictures
from segr1_jax.infer.predict import run_predict
from segr1_jax.reward.judging import one_behind
from segr1_jax.training.held_out import Answerer
from segr1_jax.types import SamPrompt

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("compile_quickly", "one_device")]


def test_predict_mirrors_folders_and_lists_bad_files(folder, scripted, tmp_path, monkeypatch):
    for name in ("a/cat.png", "a/b/cat.png", "c/cat.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "images/0.png", tmp_path / "in" / name)
    shutil.copy(folder / "images/2.png", tmp_path / "in/a/broken.png")
    (tmp_path / "in/notes.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    given = ["in/a", "in/c/*.png", "in/a/cat.png"]
    predictions = run_predict(config_of(folder), folder / "tiny", tmp_path / "out", images=given)
    assert [prediction.status for prediction in predictions] == ["ok", "skipped", "ok", "ok"]
    lines = [
        json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()
    ]
    assert [line["name"] for line in lines] == ["a/b/cat", "a/broken", "a/cat", "c/cat"]
    assert [line.get("mask") for line in lines] == [
        "masks/a/b/cat.png",
        None,
        "masks/a/cat.png",
        "masks/c/cat.png",
    ]
    assert all(
        Image.open(tmp_path / "out" / line["mask"]).size == (SIDE, SIDE)
        for line in lines
        if "mask" in line
    )
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<li ") == 4
    assert lines[1]["reason"].split(":")[0] in page
    two = run_predict(config_of(folder), folder / "tiny", tmp_path / "two", images=given, count=2)
    assert [prediction.name for prediction in two] == ["a/b/cat", "a/broken"]
    run_predict(config_of(folder), folder / "tiny", tmp_path / "out", images=["in/a/cat.png"])
    pictures = [path.name for path in sorted((tmp_path / "out").glob("*/**/*.*g"))]
    assert pictures == ["cat.png", "cat.jpg"], "one mask, one overlay"
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval/identity.json").touch()
    with pytest.raises(UserError, match="no folder of an evaluation"):
        run_predict(config_of(folder), folder / "tiny", tmp_path / "eval", images=["in/a/cat.png"])
    with pytest.raises(UserError, match=r"nothing\*\.png"):
        run_predict(config_of(folder), folder / "tiny", tmp_path / "out", images=["nothing*.png"])


def test_predictions_of_pictures_of_one_name_have_names_of_their_own(tmp_path):
    for name in ("cat.jpg", "cat.png", "cat.jpg.png", "dog.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    entries = named_pictures([str(tmp_path)], None).entries
    assert [entry.name for entry in entries] == ["cat.jpg", "cat.jpg.png", "cat.png", "dog.png"]


def test_a_picture_in_two_spellings_is_taken_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Image.new("RGB", (4, 4)).save(f"{name}.png")
    (tmp_path / "x").mkdir()
    found = named_pictures(["a.png", "x/../a.png", str(tmp_path / "a.png"), "b.png"], None)
    assert found.names == ["a", "b"]


def lines_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def killed_after(monkeypatch, batches: int) -> None:
    """The next call dies while it writes batch `batches` + 1."""
    predict, calls = answering._predict, []

    def _dies(*arguments):
        calls.append(1)
        if len(calls) > batches:
            raise KeyboardInterrupt
        return predict(*arguments)

    monkeypatch.setattr(answering, "_predict", _dies)


@pytest.fixture
def images(folder) -> list[str]:
    return [str(folder / f"images/{index}.png") for index in range(COUNT)]


def test_a_killed_call_goes_on_and_ends_with_the_same_bytes(
    folder, scripted, tmp_path, monkeypatch, images
):
    config = config_of(folder)
    run_predict(config, folder / "tiny", tmp_path / "whole", images=images)
    with monkeypatch.context() as patch:
        killed_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run_predict(config, folder / "tiny", tmp_path / "cut", images=images)
    (part,) = (tmp_path / "cut").glob(".predictions*")
    kept = [json.loads(line)["name"] for line in part.read_text().splitlines()]
    assert kept == ["0", "1", "2", "3"]
    asked = []
    answer = Answerer.__call__
    monkeypatch.setattr(
        Answerer, "__call__", lambda self, prompts: asked.extend(prompts) or answer(self, prompts)
    )
    run_predict(config, folder / "tiny", tmp_path / "cut", images=images)
    assert sorted(prompt.example_id for prompt in asked) == [4, 5, 6]
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.mark.parametrize("finished", [False, True])
def test_another_call_leaves_no_mask_of_an_earlier_one(
    folder, scripted, tmp_path, monkeypatch, images, finished
):
    """Whether that one had ended or was interrupted."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        if finished:
            run_predict(config_of(folder), folder / "tiny", out, images=images)
        else:
            killed_after(patch, 2)
            with pytest.raises(KeyboardInterrupt):
                run_predict(config_of(folder), folder / "tiny", out, images=images)
    assert (out / "masks/0.png").is_file()
    run_predict(config_of(folder), folder / "tiny", out, images=images[5:6])
    assert [line["name"] for line in lines_of(out)] == ["5"]
    assert [path.name for path in (out / "masks").iterdir()] == ["5.png"]
    assert [path.name for path in (out / "overlays").iterdir()] == ["5.jpg"]


def test_lines_of_before_identities_are_replaced(folder, scripted, tmp_path, images):
    out = tmp_path / "out"
    run_predict(config_of(folder), folder / "tiny", out, images=images[:1])
    (out / "identity.json").unlink()
    (out / "masks/mine.png").touch()
    run_predict(config_of(folder), folder / "tiny", out, images=images[5:6])
    assert [line["name"] for line in lines_of(out)] == ["5"]
    assert sorted(path.name for path in (out / "masks").iterdir()) == ["5.png", "mine.png"]


def test_a_mask_of_a_batch_that_was_cut_short_does_not_stay(folder, scripted, tmp_path, images):
    """It has no line yet; the answer of this call does not parse, so it has no mask."""
    out = tmp_path / "out"
    (out / "masks").mkdir(parents=True)
    shutil.copy(images[0], out / f"masks/{COUNT - 1}.png")
    run_predict(config_of(folder), folder / "tiny", out, images=images)
    assert lines_of(out)[-1]["status"] == "missing_think"
    assert not (out / f"masks/{COUNT - 1}.png").exists()


def test_a_changed_picture_is_answered_again(folder, scripted, tmp_path):
    picture, out = tmp_path / "one.png", tmp_path / "out"
    shutil.copy(folder / "images/0.png", picture)
    run_predict(config_of(folder), folder / "tiny", out, images=[str(picture)])
    before = (out / "overlays/one.jpg").read_bytes()
    shutil.copy(folder / "images/5.png", picture)
    run_predict(config_of(folder), folder / "tiny", out, images=[str(picture)])
    assert (out / "overlays/one.jpg").read_bytes() != before


@pytest.mark.parametrize(("overlays", "side"), [("none", None), ("small", 1024), ("full", 1500)])
def test_overlays_are_reduced_and_can_be_left_out(folder, scripted, tmp_path, overlays, side):
    photo = tmp_path / "photo.png"
    Image.open(folder / "images/0.png").resize((1500, 750)).save(photo)
    out = tmp_path / "out"
    run_predict(config_of(folder), folder / "tiny", out, images=[str(photo)], overlays=overlays)
    assert Image.open(out / "masks/photo.png").size == (1500, 750)
    if side is None:
        assert not (out / "overlays").exists()
    else:
        assert Image.open(out / "overlays/photo.jpg").size == (side, side // 2)


def test_a_reduced_overlay_moves_its_prompts():
    image, mask = np.zeros((300, 600, 3), np.uint8), np.zeros((300, 600), bool)
    mask[100:200, 200:400] = True
    box, points = np.array([200, 100, 400, 200], np.float32), np.array([[300, 150]], np.float32)
    prompt = SamPrompt(box, points, np.ones(1, np.int32))
    small, small_mask, (moved,) = reduced(image, mask, [prompt], 60)
    assert small.shape == (30, 60, 3)
    assert small_mask.sum() == 10 * 20
    assert moved.box.tolist() == [20, 10, 40, 20]
    assert moved.points.tolist() == [[30, 15]]
    assert reduced(image, mask, [prompt], 600)[0] is image


def test_a_batch_is_finished_once_the_next_one_is_submitted():
    order = []

    def submitted():
        for number in range(3):
            order.append(f"submit {number}")
            yield number

    finished = list(one_behind(submitted(), lambda number: order.append(f"finish {number}")))
    assert order == ["submit 0", "submit 1", "finish 0", "submit 2", "finish 1", "finish 2"]
    assert len(finished) == 3
    assert list(one_behind([], str)) == []


def test_the_policy_writes_while_the_sidecar_works(folder, scripted, tmp_path, monkeypatch, images):
    """The next batch is written between the submission of masks and their collection."""
    order = []

    def seen(kind, name):
        real = getattr(kind, name)

        def call(self, *arguments):
            order.append(name)
            return real(self, *arguments)

        monkeypatch.setattr(kind, name, call)

    for name in ("submit", "collect"):
        seen(answering.Responder, name)
    answer_texts = answering.answer_texts

    def write(*arguments):
        order.append("write")
        return answer_texts(*arguments)

    monkeypatch.setattr(answering, "answer_texts", write)
    good = [images[index] for index in (0, 1, 3, 5)]
    run_predict(config_of(folder), folder / "tiny", tmp_path / "out", images=good)
    assert order == ["write", "submit"] * 2 + ["collect"] * 2


def test_lines_name_masks_that_are_on_the_disk(folder, scripted, tmp_path, monkeypatch, images):
    """Masks of a batch are made durable together, before its lines are written."""
    synced, out = [], tmp_path / "out"

    def make_durable(paths):
        paths = [path.name for path in paths]
        written = list(out.glob(".predictions*"))
        synced.append((sorted(paths), sum(part.read_text().count("\n") for part in written)))

    monkeypatch.setattr(answering, "make_durable", make_durable)
    good = [images[index] for index in (0, 1, 3)]
    run_predict(config_of(folder), folder / "tiny", out, images=good)
    assert synced == [(["0.jpg", "0.png", "1.jpg", "1.png"], 0), (["3.jpg", "3.png"], 2)]
    assert len(lines_of(out)) == 3


def test_an_evaluation_may_answer_at_another_length(folder, tmp_path):
    config = config_of(folder, "rollout.max_tokens=24", "eval_max_tokens=5")
    assert config.answer_tokens == 5
    assert dataclasses.replace(config, eval_max_tokens=0).answer_tokens == 24
    lengths = []
    answer = Answerer.__call__

    def call(self, prompts):
        done = answer(self, prompts)
        lengths.extend(len(each.token_ids) for each in done)
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Answerer, "__call__", call)
        run_predict(
            config, folder / "tiny", tmp_path / "out", images=[str(folder / "images/0.png")]
        )
    assert lengths
    assert max(lengths) <= 5

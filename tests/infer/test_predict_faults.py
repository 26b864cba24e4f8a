"""Predictions beside other people's files: what is kept, told apart, left out and listed."""

import gc
import json
import os
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_set import COUNT, config_of, contents
from tiny_run import FakeClient

from segr1_jax.export.model_card import settings
from segr1_jax.infer import predict as predict_module
from segr1_jax.infer import responder
from segr1_jax.infer.predict import run_predict
from segr1_jax.training.held_out import Answerer

pytestmark = pytest.mark.usefixtures("one_device", "scripted", "no_sidecar")


@pytest.fixture
def no_sidecar(monkeypatch):
    """A mask covers the upper rows of its image, as many as the prompt's box is high."""

    class Client(FakeClient):
        def submit(self, requests):
            for request in requests:
                request.mask[: int(request.prompts[0].box[3])] = True
            return super().submit(requests)

    monkeypatch.setattr(responder, "RewardClient", lambda config: Client(config, None))


def call(folder: Path, out: Path, *images: Path | str, **options):
    return run_predict(
        config_of(folder), folder / "tiny", out, images=list(map(str, images)), **options
    )


def test_masks_of_other_origin_stay(folder, tmp_path):
    """The folder may be that of a data set, with the truths in masks/."""
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/truth.png").write_bytes(b"truth")
    call(folder, tmp_path, folder / "images/0.png", folder / "images/1.png")
    call(folder, tmp_path, folder / "images/5.png")
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["5.png", "truth.png"]
    assert [path.name for path in (tmp_path / "overlays").iterdir()] == ["5.jpg"]


@pytest.mark.parametrize("suffix", [".jsonl", ".png"])
def test_a_call_that_was_replaced_in_part_starts_again(folder, tmp_path, monkeypatch, suffix):
    """It must not find lines whose masks are gone."""
    first, out, unlink = folder / "images/0.png", tmp_path / "out", Path.unlink
    call(folder, out, first)

    def killed(path, **options):
        if path.suffix == suffix:
            raise KeyboardInterrupt
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            call(folder, out, folder / "images/5.png")
    call(folder, out, first)
    assert (out / "masks/0.png").is_file()


def test_pictures_are_told_apart_by_their_folder(folder, tmp_path):
    """Frames of one size and one time, as an archive leaves them."""
    for name, index in (("a", 0), ("b", 5)):
        (tmp_path / name).mkdir()
        Image.open(folder / f"images/{index}.png").convert("RGB").save(tmp_path / name / "1.bmp")
        os.utime(tmp_path / name / "1.bmp", ns=(0, 0))
    for name in "ab":
        call(folder, tmp_path / "out", tmp_path / name)
        call(folder, tmp_path / f"out_{name}", tmp_path / name)
    assert contents(tmp_path / "out") == contents(tmp_path / "out_b")
    assert contents(tmp_path / "out") != contents(tmp_path / "out_a")


def test_masks_of_another_precision_are_made_again(folder, tmp_path, monkeypatch):
    answer, calls = Answerer.__call__, []
    monkeypatch.setattr(
        Answerer, "__call__", lambda self, some: calls.append(1) or answer(self, some)
    )
    for dtype in ("float32", "bfloat16", "bfloat16"):
        config, images = config_of(folder, f"reward.dtype={dtype}"), [str(folder / "images/0.png")]
        run_predict(config, folder / "tiny", tmp_path / "out", images=images)
    assert len(calls) == 2


def test_a_missing_picture_is_listed(folder, tmp_path):
    shutil.copy(folder / "images/0.png", tmp_path / "there.png")
    shutil.copy(folder / "masks/0.png", tmp_path / "mask.png")
    lines = [{"image": f"{name}.png", "mask": "mask.png"} for name in ("there", "absent")]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = config_of(folder, "eval_data.kind=jsonl", f"eval_data.manifest={tmp_path}/set.jsonl")
    found = run_predict(config, folder / "tiny", tmp_path / "out")
    assert [each.status for each in found] == ["ok", "skipped"]


def test_a_picture_that_went_after_its_answer_does_not_cost_the_page(folder, tmp_path, monkeypatch):
    for index in (0, 1):
        shutil.copy(folder / f"images/{index}.png", tmp_path / f"{index}.png")
    answer = predict_module.answer_set

    def answered(*arguments, **options):
        found = answer(*arguments, **options)
        (tmp_path / "0.png").unlink()
        return found

    monkeypatch.setattr(predict_module, "answer_set", answered)
    call(folder, tmp_path / "out", tmp_path / "0.png", tmp_path / "1.png")
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<li ") == 2
    assert "no such file" in page


def test_names_that_are_not_utf_8_are_answered(folder, tmp_path):
    picture = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    shutil.copy(folder / "images/0.png", picture)
    for _ in range(2):
        (found,) = call(folder, tmp_path / "out", picture)
        assert (found.name, found.status) == ("caf\udce9", "ok")


def test_relative_and_absolute_paths_mix(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    found = call(folder, tmp_path / "out", "images/0.png", folder / "images/1.png")
    assert [each.name for each in found] == ["0", "1"]


def test_what_a_call_wrote_is_no_input_of_the_next(folder, tmp_path, monkeypatch):
    shutil.copy(folder / "images/0.png", tmp_path / "own.png")
    answer, prompts = Answerer.__call__, []
    monkeypatch.setattr(
        Answerer, "__call__", lambda self, some: prompts.extend(some) or answer(self, some)
    )
    for _ in range(2):
        found = call(folder, tmp_path, tmp_path)
        assert [each.name for each in found] == ["own"]
    assert len(prompts) == 1, "the second call finds all answers"


def test_two_batches_of_images_are_alive(folder, tmp_path, monkeypatch):
    seen, most, answer = [], [], Answerer.__call__

    def answered(self, prompts):
        gc.collect()
        most.append(sum(image() is not None for image in seen))
        return answer(self, prompts)

    monkeypatch.setattr(Answerer, "__call__", answered)
    monkeypatch.setattr(FakeClient, "encode", lambda _, image: seen.append(weakref.ref(image)))
    good = [folder / f"images/{index}.png" for index in range(COUNT) if index != 2]
    (tmp_path / "in").mkdir()
    for number in range(12):
        shutil.copy(good[number % len(good)], tmp_path / f"in/{number:02d}.png")
    call(folder, tmp_path / "out", tmp_path / "in")
    assert len(most) == 6
    assert max(most) == 4, "two a batch"


def test_the_script_answers_at_the_length_of_predictions(folder):
    config = config_of(folder, "rollout.max_tokens=24", "eval_max_tokens=5")
    assert json.loads(settings(config, {}))["max_new_tokens"] == 5


def test_masks_are_whole_pictures(folder, tmp_path):
    call(folder, tmp_path, folder / "images/0.png")
    assert set(np.unique(np.asarray(Image.open(tmp_path / "masks/0.png")))) == {0, 255}

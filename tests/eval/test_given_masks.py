"""Given masks and answers: which belongs to which sample, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny_run import CONFIG, FakeClient

from segr1_jax.config.loading import load_config
from segr1_jax.data.sources import open_source
from segr1_jax.errors import UserError
from segr1_jax.eval import rescore
from segr1_jax.eval.given_masks import given_masks
from segr1_jax.eval.rescore import run_rescore
from segr1_jax.types import Score, ScoreStatus

GOOD = "<think>a</think> <bbox>[2,2,30,30]</bbox>, <points>[[9,9]]</points>, <labels>[1]</labels>"


def draw(path, mode: str = "L", value: int = 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (40, 32), value if mode == "L" else (value,) * 3).save(path)


def manifest_config(folder, *images: str):
    """A manifest of these images, each with a white mask."""
    lines = []
    for index, image in enumerate(images):
        draw(folder / image, "RGB", 10 + index)
        draw(folder / f"truths/{index}.png")
        lines.append(json.dumps({"image": image, "mask": f"truths/{index}.png"}))
    (folder / "set.jsonl").write_text("\n".join(lines) + "\n")
    keys = ["eval_data.kind=jsonl", f"eval_data.manifest={folder / 'set.jsonl'}"]
    return load_config(CONFIG, [*keys, f"run_dir={folder / 'run'}"])


def owners(config, given) -> dict[str, str]:
    found = given_masks(given, open_source(config.eval_data))
    return {name: path.relative_to(given).as_posix() for name, path in found.items()}


def test_masks_of_a_manifest_are_found_by_path_before_stem(tmp_path):
    config = manifest_config(tmp_path, "a/1.jpg", "b/1.jpg", "c/2.jpg")
    for name in ("a/1.png", "b/1.png", "2.png", "extra.png"):
        draw(tmp_path / "given" / name)
    assert owners(config, tmp_path / "given") == {
        "a/1.jpg": "a/1.png",
        "b/1.jpg": "b/1.png",
        "c/2.jpg": "2.png",
        "extra": "extra.png",
    }


def test_a_stem_of_two_samples_is_refused(tmp_path):
    config = manifest_config(tmp_path, "a/1.jpg", "b/1.jpg")
    draw(tmp_path / "given/1.png")
    with pytest.raises(UserError, match=r"a/1\.jpg and b/1\.jpg"):
        owners(config, tmp_path / "given")


def test_the_images_of_the_set_are_no_masks(tmp_path):
    config = manifest_config(tmp_path, "photos/1.jpg", "photos/2.jpg")
    with pytest.raises(UserError, match=r"the image of photos/1\.jpg"):
        owners(config, tmp_path / "photos")


@pytest.mark.parametrize("mask", ["/etc/1.png", "../1.png", "masks/../../1.png"])
def test_masks_outside_the_folder_of_their_lines_are_refused(tmp_path, mask):
    config = manifest_config(tmp_path, "a/1.jpg")
    line = {"name": "a/1.jpg", "status": "ok", "mask": mask}
    (tmp_path / "out").mkdir()
    (tmp_path / "out/predictions.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match="masks below"):
        run_rescore(config, tmp_path / "out", tmp_path / "again", "standard")


class Failing(FakeClient):
    """The sidecar fails on every request of an image that is brighter than 10."""

    def collect(self, number):
        return [
            Score(ScoreStatus.QUARANTINED, 0.0, 0.0, None)
            if request.image.max() > 10
            else Score(ScoreStatus.OK, 1.0, 1.0, np.ones_like(request.mask))
            for request in self._requests.pop(number)
        ]


def test_a_quarantined_answer_is_in_no_figure(tmp_path, monkeypatch):
    """Before, it was a valid answer with the worst figures."""
    monkeypatch.setattr(rescore, "RewardClient", lambda config: Failing(config, None))
    config = manifest_config(tmp_path, "a/1.jpg", "a/2.jpg")
    answers = [{"name": name, "answer": GOOD} for name in ("a/1.jpg", "a/2.jpg")]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, answers)))
    table = run_rescore(config, tmp_path / "answers.jsonl", tmp_path / "out", "standard")
    (row,) = [line for line in table.splitlines() if line.startswith("| these")]
    assert row.split("|")[2].strip().startswith("1.000")
    assert row.split("|")[-2].strip() == "1"
    assert not list((tmp_path / "out").rglob("2*.png"))
    assert "a/2.jpg: the sidecar could not make its mask" in table

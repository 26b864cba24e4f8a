"""An evaluation never takes answers to other samples, or made in another way, for its own."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from small_set import config_of, contents

from segr1_jax.data.config import DataConfig
from segr1_jax.data.file_entries import Entry, FileSource
from segr1_jax.data.sample_digests import sample_digest
from segr1_jax.data.sources import SyntheticSource, first, limited
from segr1_jax.data.truth_masks import CocoSegmentation, MaskFile, Polygon, Polygons
from segr1_jax.errors import UserError
from segr1_jax.eval.evaluate import run_eval
from segr1_jax.infer import responder as answering

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.usefixtures("compile_quickly", "one_device", "scripted"),
]


def evaluate(folder, out, *overrides) -> None:
    run_eval(config_of(folder, *overrides), folder / "tiny", out, "standard")


@pytest.fixture
def copy(folder, tmp_path):
    """The set again, elsewhere."""
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture
def answered(folder, tmp_path):
    evaluate(folder, tmp_path / "out")
    return tmp_path / "out"


def test_the_same_set_in_another_place_goes_on(copy, answered):
    before = contents(answered)
    evaluate(copy, answered)
    assert contents(answered) == before


@pytest.mark.parametrize("part", ["images", "masks"])
def test_another_picture_under_the_same_name(copy, answered, part):
    shutil.copy(copy / part / "0.png", copy / part / "3.png")
    with pytest.raises(UserError, match="1 to other samples, the first 3"):
        evaluate(copy, answered)


def manifest(folder, sentence) -> list[str]:
    record = {"image": "images/0.png", "mask": "masks/0.png", "instruction": sentence}
    (folder / "set.jsonl").write_text(json.dumps(record) + "\n")
    return ["eval_data.kind=jsonl", f"eval_data.manifest={folder / 'set.jsonl'}"]


def test_another_sentence_about_the_same_picture(copy, tmp_path):
    evaluate(copy, tmp_path / "out", *manifest(copy, "the left cat"))
    with pytest.raises(UserError, match="1 to other samples"):
        evaluate(copy, tmp_path / "out", *manifest(copy, "the right cat"))


def test_a_picture_that_changed_before_an_interrupted_call_goes_on(copy, tmp_path, monkeypatch):
    predict, calls = answering._predict, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(*arguments)

    monkeypatch.setattr(answering, "_predict", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(copy, tmp_path / "out")
    shutil.copy(copy / "images/6.png", copy / "images/1.png")
    with pytest.raises(UserError, match="1 to other samples, the first 1"):
        evaluate(copy, tmp_path / "out")


@pytest.mark.parametrize(
    ("override", "differing"),
    [
        ("reward.dtype=bfloat16", "sam2"),
        ("reward.decode_batch=3", "sam2"),
        ("prompt.task=sft", "prompt"),
        ("prompt.texts={rl: {user: '{image}{instruction}'}}", "prompt"),
    ],
)
def test_whatever_changes_a_mask(folder, answered, override, differing):
    with pytest.raises(UserError, match=f"other {differing}"):
        evaluate(folder, answered, override)


@pytest.mark.parametrize(
    ("file", "field"),
    [("tokenizer.json", "policy"), ("preprocessor_config.json", "policy")],
)
def test_the_files_of_the_policy(copy, tmp_path, file, field):
    evaluate(copy, tmp_path / "out")
    path = copy / "tiny" / file
    content = json.loads(path.read_text())
    if "image_mean" in content:
        content["image_mean"] = [0.4, 0.4, 0.4]
    path.write_text(json.dumps(content, indent=7))
    with pytest.raises(UserError, match=f"other {field}"):
        evaluate(copy, tmp_path / "out")


def entry(folder, **changes) -> Entry:
    fields = {"name": "a", "image": folder / "a.png", "truth": MaskFile(folder / "m.png")}
    return Entry(**fields | changes)


def test_a_digest_is_of_contents_alone(tmp_path):
    for number, name in enumerate(("a", "b", "m", "n")):
        picture = np.full((4, 4), 40 * number, np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "same.png")

    def digest(**changes):
        return sample_digest(FileSource([entry(tmp_path, **changes)]), 0)

    assert digest() == digest(image=tmp_path / "same.png", name="b")
    square = ((0.0, 0.0), (2.0, 0.0), (2.0, 2.0))
    region = Polygons("x.json", (Polygon(square), Polygon(square, counts=False)))
    run = CocoSegmentation("x.json", [[0, 0, 2, 0, 2, 2]], 4, 4)
    others = [
        digest(),
        digest(image=tmp_path / "b.png"),
        digest(image=tmp_path / "none.png"),
        digest(truth=None),
        digest(truth=MaskFile(tmp_path / "n.png")),
        digest(truth=region),
        digest(truth=Polygons("x.json", region.polygons[:1])),
        digest(truth=run),
        digest(instruction="left"),
        digest(instruction="right"),
    ]
    assert len(set(others)) == len(others)
    assert digest(truth=region) == digest(truth=Polygons("y.json", region.polygons))


def test_a_part_of_a_source_has_its_digests():
    source = SyntheticSource(DataConfig(size=56, count=6))
    assert sample_digest(limited(source, 2), 1) == sample_digest(source, 3)
    assert sample_digest(first(source, 2), 1) == sample_digest(source, 1)
    assert sample_digest(source, 1) != sample_digest(source, 3)
    other = SyntheticSource(DataConfig(size=56, count=6, seed=1))
    assert sample_digest(other, 1) != sample_digest(source, 1)

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from segr1_jax.data.config import DataConfig
from segr1_jax.data.sources import check, open_source
from segr1_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for stem in ("b", "a", "c"):
        Image.fromarray(rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(
            tmp_path / f"images/{stem}.jpg"
        )
        Image.fromarray(rng.integers(0, 2, (8, 12), dtype=np.uint8) * 255).save(
            tmp_path / f"masks/{stem}.png"
        )
    return tmp_path


def config(folder, **changes):
    return DataConfig(
        kind="folder", images=str(folder / "images"), masks=str(folder / "masks"), **changes
    )


def manifest(folder, *records):
    path = folder / "set.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n\n")
    return DataConfig(kind="jsonl", manifest=str(path))


def test_folder_pairs_by_stem(folder):
    source = open_source(config(folder))
    check(source)
    assert source.names == ["a", "b", "c"]
    example = source[1]
    assert (example.id, example.name, example.image.shape, example.mask.shape) == (
        1,
        "b",
        (8, 12, 3),
        (8, 12),
    )
    with Image.open(folder / "masks/b.png") as mask:
        np.testing.assert_array_equal(example.mask, np.asarray(mask) > 0)


def test_ids_choose_and_order(folder):
    (folder / "ids.txt").write_text("c\n\na\n")
    assert open_source(config(folder, ids=str(folder / "ids.txt"))).names == ["c", "a"]
    (folder / "ids.txt").write_text("c\nz\n")
    with pytest.raises(UserError, match="'z'"):
        open_source(config(folder, ids=str(folder / "ids.txt")))


def test_manifest_carries_sentences(folder):
    records = (
        {"image": "images/a.jpg", "mask": "masks/a.png", "instruction": "the fish"},
        {"image": "images/b.jpg", "mask": "masks/b.png"},
    )
    source = open_source(manifest(folder, *records))
    check(source)
    assert [source[i].instruction for i in range(2)] == ["the fish", None]


def test_several_sentences_about_one_image_have_names_of_their_own(folder):
    lines = [
        {"image": "images/a.jpg", "mask": "masks/a.png", "instruction": text}
        for text in ("the fish", "the eye")
    ]
    assert open_source(manifest(folder, *lines)).names == ["images/a.jpg", "images/a.jpg-2"]


def test_a_manifest_names_a_file_once_however_it_is_spelled(folder):
    spelled = ("images/a.jpg", "./images/a.jpg", "images//a.jpg", "images/x/../a.jpg")
    (folder / "images/x").mkdir()
    source = open_source(manifest(folder, *({"image": image} for image in spelled)))
    assert source.names == ["images/a.jpg", *(f"images/a.jpg-{n}" for n in (2, 3, 4))]
    assert all(np.array_equal(source[i].image, source[0].image) for i in range(4))


def test_a_counted_name_is_not_that_of_another_file(folder):
    for stem in ("a.jpg-2", "a.jpg-2-2"):
        shutil.copy(folder / "images/b.jpg", folder / f"images/{stem}")
    spelled = ("a.jpg", "a.jpg", "a.jpg-2", "a.jpg-2-2", "a.jpg")
    names = open_source(manifest(folder, *({"image": f"images/{i}"} for i in spelled))).names
    assert len(set(names)) == len(names), names


@pytest.mark.parametrize(
    "record",
    [
        {"mask": "a"},
        {"image": "a", "instuction": "b"},
        {"image": 3},
        ["image"],
        {"image": ""},
        {"image": None},
    ],
)
def test_malformed_manifest_lines_are_named(folder, record):
    with pytest.raises(UserError, match=r"set\.jsonl:1: "):
        open_source(manifest(folder, record))


def test_check_finds_bad_pairs_before_training(folder):
    (folder / "masks/a.png").unlink()
    Image.new("1", (8, 12)).save(folder / "masks/b.png")
    (folder / "images/c.jpg").write_bytes(b"broken")
    with pytest.raises(
        UserError,
        match=r"3 of 3 samples.*a: expected a mask, got no mask.*b\.png.*12x8.*8x12.*c\.jpg",
    ):
        check(open_source(config(folder)))


def test_a_given_answer_stands_in_for_a_mask(folder):
    source = open_source(
        manifest(
            folder,
            {"image": "images/a.jpg", "answer": "<think>a</think>"},
            {"image": "images/b.jpg"},
        )
    )
    assert (source[0].answer, source[0].mask, source[1].answer) == ("<think>a</think>", None, None)
    with pytest.raises(UserError, match=r"2 of 2.*images/a\.jpg: expected a mask"):
        check(source)
    with pytest.raises(UserError, match=r"1 of 2.*images/b\.jpg: expected a mask"):
        check(source, answer_suffices=True)


def test_without_masks_examples_serve_prediction(folder):
    shutil.rmtree(folder / "masks")
    assert open_source(DataConfig(kind="folder", images=str(folder / "images")))[0].mask is None


def test_empty_doubled_and_missing_folders_are_named(folder):
    shutil.copy(folder / "images/a.jpg", folder / "images/a.jpeg")
    with pytest.raises(UserError, match=r"a\.jpeg and a\.jpg"):
        open_source(config(folder))
    for file in (folder / "images").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="at least one sample"):
        open_source(config(folder))
    with pytest.raises(UserError, match=r"data\.images"):
        open_source(DataConfig(kind="folder", images=str(folder / "none")))


def test_synthetic_ids_and_names_agree():
    source = open_source(DataConfig(size=32, count=3))
    assert [source[i].id for i in range(3)] == [0, 1, 2]
    assert [source[i].name for i in range(3)] == source.names
    with pytest.raises(IndexError):
        source[3]


def test_real_photos_open(shared):
    root = shared / "data/ECSSD"
    source = open_source(
        DataConfig(
            kind="folder",
            images=str(root / "images"),
            masks=str(root / "ground_truth_mask"),
            ids=str(root / "dev.txt"),
        )
    )
    check(source)
    assert len(source) == 80
    assert 0 < source[0].mask.mean() < 1

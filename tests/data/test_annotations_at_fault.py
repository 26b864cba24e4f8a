"""Annotations that are malformed, hostile or empty.

The sample is listed with its reason, or the file is named; nothing ends the sweep.
"""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from segr1_jax.data.images import open_mask
from segr1_jax.data.sets.check import check_sets
from segr1_jax.data.sets.registry import published_split
from segr1_jax.data.truth_masks import CocoSegmentation
from segr1_jax.errors import UserError

DEEP = "[" * 100_000
TRIANGLE = [[5, 5], [50, 5], [50, 50]]


def reasonseg(points, text="a dog", label="target") -> str:
    return json.dumps(
        {"text": [text], "is_sentence": False, "shapes": [{"label": label, "points": points}]}
    )


BAD_POINTS = (
    [[float("nan"), 1]],
    [[float("inf"), 1]],
    [["a", "b"]],
    [[1, 2, 3]],
    [],
    [None],
    [[1e30, 1], [5, 5], [9, 1]],
    [[1, 2], [3]],
)


@pytest.mark.parametrize(
    "content",
    [
        *map(reasonseg, BAD_POINTS),
        DEEP,
        reasonseg(TRIANGLE, text=" "),
        reasonseg(TRIANGLE, label="ignore"),
    ],
)
def test_reasonseg_lists_a_malformed_annotation_and_goes_on(own, content):
    path = sorted((own / "ReasonSeg/val").glob("*.json"))[0]
    path.write_text(content)
    source = published_split(own, "reasonseg", "val")
    with pytest.raises(UserError, match=path.name):
        source[0]
    assert source[1].mask.any()


def test_reasonseg_reads_a_byte_order_mark_and_draws_a_lone_corner(own):
    first, second = sorted((own / "ReasonSeg/val").glob("*.json"))[:2]
    first.write_text(reasonseg(TRIANGLE), encoding="utf-8-sig")
    second.write_text(reasonseg([[7, 9]]))
    source = published_split(own, "reasonseg", "val")
    assert source[0].instruction == "a dog."
    np.testing.assert_array_equal(np.argwhere(source[1].mask), [[9, 7]])


@pytest.fixture
def referring(own):
    """A function that changes the references of `val` and the annotations, then opens the split."""

    def change(refs_change=lambda refs: None, tree_change=lambda tree: None):
        path = own / "Refer_Segm/refcoco/refs(unc).p"
        refs = [ref for ref in pickle.loads(path.read_bytes()) if ref["split"] == "val"]
        tree = json.loads(path.with_name("instances.json").read_text())
        refs_change(refs)
        tree_change(tree)
        path.write_bytes(pickle.dumps(refs))
        path.with_name("instances.json").write_text(json.dumps(tree))
        return published_split(own, "refcoco", "val")

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda refs: refs[0].update(
            ref_id="../../../x"
        ),  # a sample's name becomes the path of its mask
        lambda refs: refs[0]["sentences"][0].update(sent_id="../x"),
        lambda refs: refs.append(dict(refs[0])),  # one mask would overwrite the other
        lambda refs: refs[0]["sentences"][0].update(sent=3),
        lambda refs: refs[0].update(image_id="x"),
        lambda refs: refs[0].update(ann_id=[1]),
    ],
)
def test_references_that_no_name_or_sentence_can_be_made_of_are_refused(referring, change):
    with pytest.raises(UserError, match=r"refs\(unc\)\.p"):
        referring(change)


def test_blank_sentences_and_annotations_without_a_segmentation_are_samples_at_fault(referring):
    gone = []

    def blank(refs):
        refs[0]["sentences"][0].update(sent="  ")
        gone.append(refs[1]["ann_id"])

    source = referring(
        blank,
        lambda tree: [
            each.pop("segmentation") for each in tree["annotations"] if each["id"] in gone
        ],
    )
    for index, expected in ((0, "expected sentences"), (2, "expected a segmentation")):
        with pytest.raises(UserError, match=expected):
            source[index]
    assert source[1].mask.any()


def test_annotations_without_sizes_are_named(referring):
    with pytest.raises(UserError, match=r"instances\.json.*height"):
        referring(tree_change=lambda tree: [image.pop("height") for image in tree["images"]])


@pytest.mark.parametrize(
    "segmentation",
    [
        [[0, 0, 1e12, 0, 1e12, 1e12]],  # ends the process inside pycocotools
        [[float("nan")] * 6],
        [[1, 2, 3, 4, 5, 6, 7]],
        {"size": [60_000, 60_000], "counts": [3_600_000_000]},
        {
            "size": [20, 30],
            "counts": [5, 5],
        },  # what it does not reach would be whatever lay in memory
        {"size": [20, 30], "counts": [300, 299]},
        {"size": [20, 30], "counts": [0, 601]},
        {
            "size": [20, 30],
            "counts": coco.frPyObjects({"size": [20, 30], "counts": [300, 299]}, 20, 30)[
                "counts"
            ].decode(),
        },
    ],
)
def test_segmentations_that_would_break_or_mislead_pycocotools(segmentation):
    with pytest.raises(UserError, match="annotation 7: expected polygons or a run-length code"):
        CocoSegmentation("annotation 7", segmentation, 20, 30).read(20, 30)


def spoil_pages(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[200:3000] = np.random.default_rng(0).bytes(2800)
    path.write_bytes(data)


def test_damaged_parquet_pages_are_rows_at_fault(own):
    path = next((own / "FCoT/data").glob("*.parquet"))
    spoil_pages(path)
    source = published_split(own, "fcot", "train")
    with pytest.raises(UserError, match=r"\.parquet: row group 0"):
        source[0]
    assert source[len(source) - 1].answer


@pytest.mark.parametrize("other", [{"image": b"x"}, {"thinking": 3}, {"image": "a.jpg"}])
def test_parquet_columns_of_other_types_are_named(own, other):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = next((own / "FCoT/data").glob("*.parquet"))
    rows = [row | other for row in parquet.read_table(path).to_pylist()]
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    with pytest.raises(UserError, match=next(iter(other))):
        published_split(own, "fcot", "train")


def test_transparent_parts_of_a_mask_are_background(tmp_path):
    pixels = np.full((9, 9, 4), 255, np.uint8)
    pixels[:4, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "m.png")
    np.testing.assert_array_equal(
        open_mask(tmp_path / "m.png", 9, 9), np.arange(9)[:, None].repeat(9, 1) >= 4
    )


def test_file_names_beyond_utf8_say_what_to_do_and_hidden_files_are_no_samples(own):
    images = own / "ECSSD/images"
    shutil.copy(sorted(images.iterdir())[0], images / "._a.jpg")
    (report,) = (report for report in check_sets(own) if report.title == "ECSSD")
    assert report.problems == []
    shutil.copy(sorted(images.iterdir())[1], images / b"\xff.jpg".decode(errors="surrogateescape"))
    (report,) = (report for report in check_sets(own) if report.title == "ECSSD")
    assert "udcff" in report.problems[0].encode().decode()
    assert "rename the file" in report.problems[0]


def test_the_remedy_names_a_renamed_folder_and_never_another_split_or_set(own):
    (own / "DIS5K/DIS-TR").rename(own / "DIS5K/DIS5K-TR")
    (own / "HKU-IS").rename(own / "HKUIS")
    for gone in ("DIS5K/DIS-TE1", "DUTS/DUTS-TR", "Refer_Segm/refcocog"):
        shutil.rmtree(own / gone)
    problems = {
        (report.title, report.split): " ".join(report.problems) for report in check_sets(own)
    }
    assert "rename 'DIS5K-TR'" in problems["DIS5K", "train"]
    assert "rename it to 'HKU-IS' if it is HKU-IS" in problems["HKU-IS", "-"]
    assert "rename 'DIS-TE" not in problems["DIS5K", "te1"]
    assert "Remedy: put 'DUTS-TR'" in problems["DUTS", "train"]
    assert not any("RefCOCOg" in title for title, _ in problems)

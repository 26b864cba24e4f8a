"""Every reader on the official layout of its set, at toy size.

Pictures and annotations are also read without it, and compared.
"""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image
from published_samples import every_sample

from segr1_jax.data.config import DataConfig
from segr1_jax.data.sets.check import check_sets, markdown
from segr1_jax.data.sets.pairs import PAIR_SETS
from segr1_jax.data.sets.refer import REFER_SETS
from segr1_jax.data.sets.registry import SETS, published_split
from segr1_jax.data.sets.toy import SAMPLES, SIZE, write_toy_sets
from segr1_jax.data.sources import open_source
from segr1_jax.data.synthetic import scene
from segr1_jax.errors import UserError
from segr1_jax.types import Frame


def test_toy_sets_are_the_same_every_time(toy, tmp_path):
    write_toy_sets(tmp_path / "again")
    files = sorted(path.relative_to(toy) for path in toy.rglob("*") if path.is_file())
    assert files == sorted(
        path.relative_to(tmp_path / "again")
        for path in (tmp_path / "again").rglob("*")
        if path.is_file()
    )
    assert all(
        (toy / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files
    )
    with pytest.raises(UserError, match="an empty or new folder"):
        write_toy_sets(toy)


@pytest.mark.parametrize(
    ("name", "split"), [(name, split) for name, found in SETS.items() for split in found.counts]
)
def test_every_split_is_read_whole(toy, name, split):
    source = open_source(DataConfig(kind="published", root=str(toy), set=name, split=split))
    examples = [source[index] for index in range(len(source))]
    assert [example.name for example in examples] == source.names
    assert len(set(source.names)) == len(source) == SAMPLES
    assert all(example.image.shape == (SIZE, SIZE, 3) for example in examples)
    assert all((example.mask is None) == (SETS[name].kind == "answers") for example in examples)
    assert all(
        (example.instruction is None) == (SETS[name].kind in ("foreground", "answers"))
        for example in examples
    )


FOLDERS = {  # spelt out from the papers' downloads, apart from the readers
    ("cod10k", "test"): ("COD10K-v3/Test/Image", "COD10K-v3/Test/GT_Object"),
    ("duts", "train"): ("DUTS/DUTS-TR/DUTS-TR-Image", "DUTS/DUTS-TR/DUTS-TR-Mask"),
    ("dis5k", "te3"): ("DIS5K/DIS-TE3/im", "DIS5K/DIS-TE3/gt"),
    ("dut_omron", "test"): ("DUT-OMRON/DUT-OMRON-image", "DUT-OMRON/pixelwiseGT-new-PNG"),
    ("hku_is", "test"): ("HKU-IS/imgs", "HKU-IS/gt"),
    ("ecssd", "test"): ("ECSSD/images", "ECSSD/ground_truth_mask"),
}


@pytest.mark.parametrize(("name", "split"), FOLDERS)
def test_pairs(toy, name, split):
    images, masks = (toy / folder for folder in FOLDERS[name, split])
    source = published_split(toy, name, split)
    stems = sorted(path.stem for path in images.iterdir() if "NonCAM" not in path.name)
    assert source.names == stems
    for index, stem in enumerate(stems):
        with Image.open(images / f"{stem}.jpg") as image, Image.open(masks / f"{stem}.png") as mask:
            np.testing.assert_array_equal(source[index].image, np.asarray(image))
            np.testing.assert_array_equal(source[index].mask, np.asarray(mask) == 255)


def test_camouflaged_pictures_alone(own):
    assert any("NonCAM" in path.name for path in (own / "COD10K-v3/Train/Image").iterdir())
    assert not any("NonCAM" in name for name in published_split(own, "cod10k", "train").names)


def test_camo_as_published_and_as_the_reference_code_splits_it(own):
    folder = own / "CAMO-V.1.0-CVIU2019"
    before = {
        split: [example.mask for example in every_sample(own, "camo", split)]
        for split in ("train", "test")
    }
    for part in ("Train", "Test"):
        (folder / "GT" / part).mkdir()
        for image in (folder / "Images" / part).iterdir():
            (folder / "GT" / f"{image.stem}.png").rename(folder / "GT" / part / f"{image.stem}.png")
    for split, masks in before.items():
        np.testing.assert_array_equal(
            [example.mask for example in every_sample(own, "camo", split)], masks
        )


@pytest.mark.parametrize("name", REFER_SETS)
def test_referring_samples_are_sentences(toy, name):
    folder = toy / SETS[name].folder
    refs = pickle.loads(next(folder.glob("refs(*).p")).read_bytes())
    for split in SETS[name].counts:
        mine = [ref for ref in refs if ref["split"] == split]
        examples = every_sample(toy, name, split)
        assert [example.name for example in examples] == [
            f"{r['ref_id']}-{s['sent_id']}" for r in mine for s in r["sentences"]
        ]
        assert [example.instruction for example in examples] == [
            f"{s['sent']}." for r in mine for s in r["sentences"]
        ]
        for ref, example in zip([r for r in mine for _ in r["sentences"]], examples, strict=True):
            drawn = scene(DataConfig(size=SIZE, count=10**5, max_objects=2), ref["image_id"]).masks
            y, x = np.nonzero(example.mask)
            filled = example.mask.all(
                where=np.isin(np.arange(SIZE), y)[:, None] & np.isin(np.arange(SIZE), x)
            )
            assert filled or any((mask == example.mask).all() for mask in drawn), (
                "a box, or the very mask that was drawn"
            )


def test_a_malicious_pickle_runs_nothing(own, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    (own / "Refer_Segm/refcoco/refs(unc).p").write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(UserError, match=r"refs\(unc\)\.p.*system"):
        published_split(own, "refcoco", "val")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80", pickle.dumps({"a": 1}), pickle.dumps([{"split": "val"}]), pickle.dumps([3])],
)
def test_damaged_references_are_named(own, content):
    (own / "Refer_Segm/refcoco/refs(unc).p").write_bytes(content)
    with pytest.raises(UserError, match=r"refs\(unc\)\.p"):
        published_split(own, "refcoco", "val")


def test_references_at_fault_are_samples_at_fault(own):
    path = own / "Refer_Segm/refcoco/refs(unc).p"
    refs = [ref for ref in pickle.loads(path.read_bytes()) if ref["split"] == "val"]
    refs[0]["ann_id"], refs[1]["sentences"] = 10**9, []
    refs.append(refs[1] | {"ref_id": 5, "sentences": [{"sent": "الكلب الأحمر 红狗", "sent_id": 1}]})
    path.write_bytes(pickle.dumps(refs))
    source = published_split(own, "refcoco", "val")
    for index, expected in ((0, "ann_id 1000000000"), (2, "expected sentences")):
        with pytest.raises(UserError, match=expected):
            source[index]
    assert source[3].instruction == "الكلب الأحمر 红狗."


def test_fcot_answers_are_as_given(toy):
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(toy / "FCoT/data").to_pylist()
    for row, example in zip(rows, every_sample(toy, "fcot", "train"), strict=True):
        assert example.answer == f"{row['thinking']} {row['solution']}"
        assert example.frame == Frame(SIZE, SIZE)


def test_check_names_every_problem_and_its_remedy(own):
    (own / "ECSSD/ground_truth_mask").rename(own / "ECSSD/ground_truth_masks")
    duts = own / "DUTS/DUTS-TE"
    lonely, small, broken = sorted((duts / "DUTS-TE-Mask").iterdir())[:3]
    lonely.rename(lonely.with_stem("other"))
    Image.new("1", (3, 4)).save(small)
    broken.write_bytes(broken.read_bytes()[:20])
    shutil.rmtree(own / "ReasonSeg/val")
    (own / "HKU-IS").rename(own / "HKUIS")
    reports = {(report.title, report.split): report for report in check_sets(own)}
    assert "rename 'ground_truth_masks'" in reports["ECSSD", "test"].problems[0]
    problems = reports["DUTS", "test"].problems
    assert len(problems) == 4
    named = (lonely.stem, "other.png", small.name, broken.name)
    assert all(
        any(word in problem and "Remedy: " in problem for problem in problems) for word in named
    )
    assert reports["DUTS", "test"].found == 1
    assert "no such folder" in reports["ReasonSeg", "val"].problems[0]
    assert reports["COD10K", "train"].problems == []
    text = markdown(list(reports.values()))
    assert "Not here" not in text
    assert "rename it to 'HKU-IS'" in text
    assert "| DUTS | test | 1 | 5019 | 4 |" in text


def test_joined_sets(toy):
    joined = open_source(
        DataConfig(kind="published", root=str(toy), set="cod10k+camo", split="train")
    )
    cod, camo = (published_split(toy, name, "train") for name in ("cod10k", "camo"))
    assert joined.names == [
        *(f"cod10k/{name}" for name in cod.names),
        *(f"camo/{name}" for name in camo.names),
    ]
    np.testing.assert_array_equal(joined[SAMPLES].image, camo[0].image)
    with pytest.raises(UserError, match="fcot"):
        published_split(toy, "duts+fcot", "train")


def test_ids_choose_samples(toy, tmp_path):
    names = published_split(toy, "duts", "train").names
    (tmp_path / "ids.txt").write_text(f"{names[2]}\n{names[0]}\n")
    config = DataConfig(
        kind="published", root=str(toy), set="duts", split="train", ids=str(tmp_path / "ids.txt")
    )
    assert open_source(config).names == [names[2], names[0]]
    (tmp_path / "ids.txt").write_text("nobody\n")
    with pytest.raises(UserError, match="'nobody'"):
        open_source(config)


def test_unknown_names(toy, tmp_path):
    with pytest.raises(UserError, match="did you mean 'cod10k'"):
        published_split(toy, "cod10", "test")
    with pytest.raises(UserError, match="one of train, test"):
        published_split(toy, "duts", "val")
    with pytest.raises(UserError, match="at least one of the folders"):
        check_sets(tmp_path)


def test_ecssd_itself(shared, tmp_path):
    (tmp_path / "ECSSD").symlink_to(shared / "data/ECSSD")
    source = published_split(tmp_path, "ecssd", "test")
    assert len(source) == 884
    masks = [
        Image.open(shared / "data/ECSSD/ground_truth_mask" / f"{name}.png")
        for name in source.names[:5]
    ]
    for index, mask in enumerate(masks):
        np.testing.assert_array_equal(source[index].mask, np.asarray(mask.convert("L")) > 128)
        mask.close()
    (report,) = check_sets(tmp_path)
    assert (report.found, report.published, report.problems) == (884, 1000, [])


def test_real_photos_and_polygons_of_coco(shared, tmp_path):
    """COCO's own annotations and RefCOCO's sentences in REFER's layout.

    Masks against pycocotools through its own COCO class.
    """
    from pycocotools.coco import COCO

    coco = COCO(shared / "data/refcoco/coco_val2017_mini/test_coco.json")
    folder, photos = tmp_path / "Refer_Segm/refcoco", tmp_path / "Refer_Segm/coco_2014/train2014"
    folder.mkdir(parents=True)
    photos.mkdir(parents=True)
    shutil.copy(shared / "data/refcoco/coco_val2017_mini/test_coco.json", folder / "instances.json")
    sentences = json.loads((shared / "data/refcoco/refcoco_unc_testA_mini.json").read_text())
    chosen = [annotation for annotation in coco.anns.values() if annotation["segmentation"]]
    refs = [
        {
            "ref_id": n,
            "ann_id": a["id"],
            "image_id": a["image_id"],
            "split": "testA",
            "sentences": [{"sent": s["sent"], "sent_id": n}],
        }
        for n, (a, s) in enumerate(zip(chosen, sentences, strict=False))
    ]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs))
    for image in coco.imgs.values():
        shutil.copy(shared / "data/refcoco/coco_val2017_mini" / image["file_name"], photos)
    source = published_split(tmp_path, "refcoco", "testA")
    assert len(source) == len(refs) > 3
    for index, ref in enumerate(refs):
        np.testing.assert_array_equal(
            source[index].mask, coco.annToMask(coco.anns[ref["ann_id"]]).astype(bool)
        )


def test_pair_sets_are_complete():
    assert {name: sum(found.counts.values()) for name, found in PAIR_SETS.items()} == {
        "dis5k": 5470,
        "cod10k": 5066,
        "camo": 1250,
        "duts": 15572,
        "dut_omron": 5168,
        "hku_is": 4447,
        "ecssd": 1000,
    }

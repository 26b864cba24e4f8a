"""Samples in rows of parquet and Arrow files, against the same samples as picture files."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from full_disk import SMALL_FILE, no_room_for_more_than
from picture_rows import SENTENCES, picture_table, write_as_files

from segr1_jax.data.config import DataConfig
from segr1_jax.data.hub_rows import hub_entries
from segr1_jax.data.row_check import check_rows, holds_rows
from segr1_jax.data.sample_digests import sample_digest
from segr1_jax.data.sources import check, open_source
from segr1_jax.errors import UserError

datasets = pytest.importorskip("datasets", reason="needs the extra hub")
COUNT = 6


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """Where `datasets` writes its Arrow files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("arrow"))
        yield
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def forms(tmp_path_factory) -> dict[str, DataConfig]:
    """One table in every form that data.path takes, and as picture files."""
    root = tmp_path_factory.mktemp("rows")
    table = picture_table(datasets, COUNT)
    table.save_to_disk(root / "table")
    datasets.DatasetDict(train=table, other=table.select([0])).save_to_disk(root / "splits")
    # As in the cache of the Hub: a hidden folder, and links to the files.
    hidden = root / ".cache/snapshot"
    (hidden / "data").mkdir(parents=True)
    table.to_parquet(root / "one.parquet")
    (hidden / "data/train-00000-of-00001.parquet").symlink_to(root / "one.parquet")
    write_as_files(table, root / "files")
    rows = DataConfig(kind="hub", sentence_column="sentence", split="train")
    paths = {"table": "table", "splits": "splits", "folder": hidden, "file": "one.parquet"}
    forms = {name: dataclasses.replace(rows, path=str(root / at)) for name, at in paths.items()}
    folders = {name: str(root / "files" / name) for name in ("images", "masks")}
    return forms | {"files": DataConfig(kind="folder", **folders)}


@pytest.mark.parametrize("form", ["table", "splits", "folder", "file"])
def test_rows_equal_the_same_samples_as_files(forms, form):
    rows, files = open_source(forms[form]), open_source(forms["files"])
    check(rows)
    assert rows.names == files.names == [f"{row:06d}" for row in range(COUNT)]
    assert rows.largest_pixels == files.largest_pixels == 84 * 84
    for index in range(COUNT):
        ours, theirs = rows[index], files[index]
        np.testing.assert_array_equal(ours.image, theirs.image)
        np.testing.assert_array_equal(ours.mask, theirs.mask)
        assert ours.instruction == SENTENCES[index % len(SENTENCES)]
        # The sentence is part of the digest; where there is none, bytes alone decide.
        same = sample_digest(rows, index) == sample_digest(files, index)
        assert same == (ours.instruction is None)


@pytest.mark.parametrize("form", ["table", "folder", "file"])
def test_a_cell_is_a_part_of_the_mapped_file(forms, form):
    """So a set may be larger than memory, and a header costs a page or two."""
    cells = [entry.image for entry in hub_entries(forms[form])]
    arrow_files = [
        range(*(int(end, 16) for end in line.split()[0].split("-")))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(".arrow")
    ]
    for cell in cells:
        address = cell._content().address
        assert any(address in mapped for mapped in arrow_files)
    assert len({cell.fingerprint() for cell in cells}) == COUNT


def test_rows_with_one_picture_are_in_one_part(tmp_path):
    table = picture_table(datasets, COUNT)
    twice = datasets.concatenate_datasets([table, table])
    twice.save_to_disk(tmp_path / "twice")
    config = DataConfig(kind="hub", path=str(tmp_path / "twice"), hold_out=0.3)
    parts = {
        part: {int(name) for name in open_source(dataclasses.replace(config, part=part)).names}
        for part in ("train", "held_out")
    }
    assert parts["train"] | parts["held_out"] == set(range(2 * COUNT))
    assert len(parts["held_out"]) == 4  # two of six pictures
    for part in parts.values():
        assert {(row + COUNT) % (2 * COUNT) for row in part} == part


def test_pictures_that_are_paths_are_files(tmp_path):
    """As in a folder of pictures with a table beside it."""
    write_as_files(picture_table(datasets, 2), tmp_path)
    lines = [
        f'{{"image_file_name": "images/{row:06d}.png", "mask_file_name": "masks/{row:06d}.png"}}\n'
        for row in range(2)
    ]
    (tmp_path / "metadata.jsonl").write_text("".join(lines))
    entries = hub_entries(DataConfig(kind="hub", path=str(tmp_path), split="train"))
    assert [entry.image.name for entry in entries] == ["000000.png", "000001.png"]
    assert [entry.truth.path.parent.name for entry in entries] == ["masks", "masks"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"split": "nope"}, "Unknown split"),
        ({"subset": "nope"}, "Available: ['default']"),
        ({"image_column": "photo"}, "expected the column 'photo', got the columns image (Image"),
        ({"image_column": "sentence"}, "expected pictures in 'sentence'"),
        ({"sentence_column": "mask"}, "expected texts in 'mask'"),
        ({"path": "/nowhere"}, "/nowhere: expected a data set"),
    ],
)
def test_a_wrong_key_is_one_error(forms, changes, told):
    with pytest.raises(UserError) as error:
        open_source(dataclasses.replace(forms["folder"], **changes))
    assert told in str(error.value)


def test_damaged_files_and_cells(forms, tmp_path):
    whole = Path(forms["file"].path).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut.parquet: expected a data set"):
        open_source(DataConfig(kind="hub", path=str(tmp_path / "cut.parquet")))
    rows = picture_table(datasets, 4).to_dict()
    rows["image"][1]["bytes"] = b"no picture"
    rows["image"][2] = None
    rows["mask"][3] = None
    table = datasets.Dataset.from_dict(rows, features=picture_table(datasets, 1).features)
    table.save_to_disk(tmp_path / "spoilt")
    config = DataConfig(kind="hub", path=str(tmp_path / "spoilt"))
    (report,) = check_rows(config, "spoilt")
    assert report.found == 1
    told = ("row 1, image: expected a readable image", "row 2, image: expected a picture", "mask")
    for part, problem in zip(told, report.problems, strict=True):
        assert part in problem
    with pytest.raises(UserError, match=r"3 of 4 samples"):
        check(open_source(config))


def test_a_full_disk_is_one_error(forms, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
    with no_room_for_more_than(SMALL_FILE), pytest.raises(UserError, match="space for its Arrow"):
        open_source(forms["file"])
    assert len(open_source(forms["file"])) == COUNT  # nothing half-written is taken for whole


def test_which_paths_hold_rows(forms, tmp_path):
    assert all(holds_rows(Path(forms[form].path)) for form in ("table", "splits", "folder", "file"))
    assert not holds_rows(tmp_path)
    assert not holds_rows(Path(forms["files"].images))

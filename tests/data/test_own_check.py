"""The check of a manifest and of a folder names each file at fault."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segr1_jax.cli import main
from segr1_jax.data.own_check import check_own, own_set

SIZE = (12, 8)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four pictures: one of them is broken, and the mask of another is on its side."""
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for index in range(4):
        Image.new("RGB", SIZE).save(tmp_path / f"images/{index}.png")
        mask = Image.fromarray(np.ones(SIZE[::-1], bool))
        mask = mask.transpose(Image.Transpose.ROTATE_90) if index == 3 else mask
        mask.save(tmp_path / f"masks/{index}.png")
    (tmp_path / "images/1.png").write_bytes(b"no picture")
    lines = [{"image": f"images/{index}.png", "mask": f"masks/{index}.png"} for index in range(4)]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.mark.parametrize("name", [".", "all.jsonl"])
def test_each_file_at_fault_is_named(folder, name):
    (report,) = check_own(own_set(folder / name), "mine")
    assert (report.found, len(report.problems)) == (2, 2)
    assert "images/1.png" in report.problems[0]
    assert "masks/3.png" in report.problems[1]


def test_other_folders_are_no_set_of_ones_own(folder):
    assert own_set(folder / "images") is None
    assert own_set(folder / "absent") is None


def test_the_command_reports_a_manifest(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(["data", "check", "all.jsonl"]) == 1
    assert "masks/3.png" in capsys.readouterr().out
    (folder / "good.jsonl").write_text((folder / "all.jsonl").read_text().splitlines()[0] + "\n")
    assert main(["data", "check", "good.jsonl"]) == 0
    assert main(["data", "check", "absent.jsonl"]) == 1
    assert "absent.jsonl" in capsys.readouterr().out

"""The runs behind weights, and whether these have only seen synthetic pictures."""

import dataclasses
from pathlib import Path

import pytest
from huggingface_hub import constants

from segr1_jax.config.loading import load_config
from segr1_jax.config.schema import RunConfig
from segr1_jax.data.config import DataConfig
from segr1_jax.runtime.initial_weights import Start, record_start
from segr1_jax.runtime.lineage import only_synthetic, policy_name, runs_behind
from segr1_jax.runtime.run_directory import RunDir, make_run_dir

SYNTHETIC, PHOTOS = DataConfig(), DataConfig(kind="jsonl", manifest="photos.jsonl")


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """Return a function that makes one run per set, each from the one before, and a start."""
    monkeypatch.chdir(tmp_path)

    def made(*sets: DataConfig) -> Start:
        start = Start(str(tmp_path / "base"))
        for number, data in enumerate(sets):
            config = dataclasses.replace(RunConfig(), run_dir=f"run_{number}", data=data)
            held_out = dataclasses.replace(data, manifest=data.manifest and "other.jsonl", seed=1)
            config = dataclasses.replace(config, eval_data=held_out)
            record_start(make_run_dir(config), start)
            checkpoints = RunDir(tmp_path / config.run_dir).checkpoints
            start = Start(start.base, str(checkpoints), step=7, below=start)
        return start

    return made


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ([], False),
        ([SYNTHETIC], True),
        ([SYNTHETIC, SYNTHETIC], True),
        ([PHOTOS, SYNTHETIC], False),
        ([SYNTHETIC, PHOTOS], False),
    ],
)
def test_one_run_on_photographs_is_enough(chain, sets, expected):
    runs = runs_behind(chain(*sets))
    assert [run.data.kind for run in runs] == [data.kind for data in reversed(sets)]
    assert only_synthetic(runs) is expected


def test_a_deleted_run_is_unknown(chain, tmp_path):
    start = chain(SYNTHETIC, SYNTHETIC)
    (tmp_path / "run_0/config.yaml").unlink()
    assert runs_behind(start) is None
    (tmp_path / "run_1/config.yaml").write_text("no: key of ours")
    assert runs_behind(start) is None


def test_checkpoints_in_an_object_store_are_unknown():
    start = Start("base", "gs://bucket/run", step=3, below=Start("base"))
    assert runs_behind(start) is None
    assert policy_name(start) == "gs://bucket/run, step 3 (from base)"


def test_names_have_no_folders(chain, tmp_path):
    start = chain(SYNTHETIC)
    assert policy_name(start) == "run run_0, step 7 (from base)"
    assert policy_name(start.below) == "base"
    assert policy_name(Start(str(tmp_path / "run_0/export"))) == "export in run_0"
    assert load_config(Path("run_0")).data == SYNTHETIC


def test_a_base_from_the_hub_has_the_name_of_its_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    base = tmp_path / f"models--Qwen--Base/snapshots/{'a' * 40}"
    base.mkdir(parents=True)
    assert policy_name(Start(str(base))) == "Qwen/Base"
    checkpoints = Start(str(base), "gs://bucket/run/checkpoints", step=3)
    assert policy_name(checkpoints) == "gs://bucket/run/checkpoints, step 3 (from Qwen/Base)"

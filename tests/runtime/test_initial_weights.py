"""Where a run began is found from any working directory, and after the tree has moved."""

import json
import shutil

import pytest

from segr1_jax.config.loading import dump_config, load_config
from segr1_jax.config.schema import PolicyConfig, RunConfig
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.runtime.initial_weights import record_start, recorded_start, resolve_start
from segr1_jax.runtime.run_directory import RunDir, make_run_dir


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder with a policy and a run that began from it, by relative paths."""
    tree = tmp_path / "tree"
    tree.mkdir()
    monkeypatch.chdir(tree)
    make_tiny_policy(tree / "policy", seed=0, frame=84)
    (tree / "data").mkdir()
    config = RunConfig(run_dir="runs/one", policy=PolicyConfig(path="policy"))
    run = make_run_dir(config)
    run.config.write_text(dump_config(config).replace("root: ''", "root: data", 1))
    record_start(run, recorded_start(config))
    run.metrics.write_text('{"step": 1}\n')
    (run.checkpoints / "7").mkdir()
    return tree


def test_from_another_working_directory(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = resolve_start("tree/runs/one")
    assert start.below.base == str(tree / "policy")
    assert start.step == 7
    config = load_config(tree / "runs" / "one")
    assert recorded_start(config).base == str(tree / "policy")
    assert (config.policy.path, config.data.root) == (str(tree / "policy"), str(tree / "data"))


def test_from_its_own_working_directory_paths_stay_as_written(tree):
    assert load_config("runs/one").policy.path == "policy"


def test_after_the_whole_tree_has_moved(tree, tmp_path):
    moved = tmp_path / "moved"
    shutil.move(tree, moved)
    base = resolve_start(moved / "runs" / "one").below.base
    assert (moved / "policy").samefile(base)


def test_a_record_of_before_is_read(tree):
    RunDir(tree / "runs" / "one").start.write_text(json.dumps({"base": "policy"}))
    assert resolve_start("runs/one").below.base == "policy"

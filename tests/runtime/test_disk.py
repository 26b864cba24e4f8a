"""A run whose checkpoints have no room ends before its directory is made.

What they need is counted by hand.
"""

import shutil
from collections import namedtuple

import jax
import pytest
from tiny_run import small_config, train

from segr1_jax.errors import UserError
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.objective.update import Skips, TrainState
from segr1_jax.runtime.disk import require_disk, saving_needs

Usage = namedtuple("Usage", "total used free")
WEIGHTS, STATE = 4 * 1000, 3 * 4 * 1000 + 4 + 8


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("runs") / "tiny", seed=1, frame=84)


@pytest.fixture
def state():
    """1,000 weights with two moments each, a counter of four bytes and two of skipped updates."""
    weight, counter = jax.ShapeDtypeStruct((10, 100), "float32"), jax.ShapeDtypeStruct((), "int32")
    return TrainState(
        {"w": weight}, ({"w": weight}, {"w": weight}), counter, Skips(counter, counter)
    )


def test_needs_by_hand(policy, tmp_path, state):
    config = small_config(policy, tmp_path / "run", "keep=2")
    needs = saving_needs(config, state, hosts=4)
    assert needs.checkpoint == STATE
    assert needs.disk == 3 * STATE
    assert needs.host_memory == STATE / 4
    best = small_config(policy, tmp_path / "run", "keep=2", "keep_best=1")
    assert saving_needs(best, state, hosts=1).disk == 3 * STATE + 2 * WEIGHTS


@pytest.mark.parametrize(
    ("free", "there", "enough"), [(0.9, 0, False), (1, 0, True), (0.6, 0.5, True)]
)
def test_what_lies_there_already_counts(monkeypatch, policy, tmp_path, state, free, there, enough):
    """A resumed run replaces its checkpoints."""
    config = small_config(policy, tmp_path / "run", "keep=2")
    old = tmp_path / "run" / "checkpoints" / "5" / "weights"
    old.parent.mkdir(parents=True)
    old.write_bytes(bytes(int(there * 3 * STATE)))
    disk = Usage(0, 0, free * 3 * STATE)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: disk)
    if enough:
        return require_disk(config, state, hosts=1)
    with pytest.raises(UserError, match=r"checkpoint_dir: expected .* free in .*keep=2 check"):
        require_disk(config, state, hosts=1)


def test_an_object_store_is_not_asked(policy, tmp_path, state):
    elsewhere = small_config(policy, tmp_path / "run", "checkpoint_dir=gs://bucket/run")
    require_disk(elsewhere, state, hosts=1)


def test_a_run_without_room_makes_no_directory(monkeypatch, policy, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, 1000))
    with pytest.raises(UserError, match="checkpoint_dir"):
        train(monkeypatch, policy, tmp_path / "run", lambda position: (0.0, 1.0))
    assert not (tmp_path / "run").exists()

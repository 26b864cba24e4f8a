"""Checkpoints: which are kept, and what a disk that is full leaves behind."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from full_disk import SMALL_FILE, no_room_for_more_than
from tiny_run import CONFIG

from segr1_jax.config.loading import dump_config, load_config
from segr1_jax.config.schema import MeshConfig
from segr1_jax.errors import UserError
from segr1_jax.objective.update import TrainState, init_state
from segr1_jax.runtime.checkpoint import (
    BestWeights,
    Checkpoints,
    abstract_state,
    newest_step,
    restore_params,
)
from segr1_jax.runtime.initial_weights import resolve_start
from segr1_jax.runtime.mesh import Placement, make_mesh


def state(step: int) -> TrainState:
    weights = {"w": jnp.array(np.random.default_rng(step).normal(size=100_000), jnp.float32)}
    return init_state(weights, optax.sgd(0.1))._replace(step=jnp.int32(step))


def save_and_wait(checkpoints: Checkpoints, step: int) -> None:
    checkpoints.save(state(step), 8 * step, {})
    checkpoints.wait()


def test_the_newest_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state(step), 8 * step, {})
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [2, 3]


def save_best(directory, ious: dict[int, float], *, keep: int, step: int) -> None:
    with BestWeights(directory, keep=keep, step=step) as best:
        for number, iou in ious.items():
            best.save(number, state(number).params, iou)


def steps_in(directory) -> list[int]:
    return sorted(int(path.name) for path in directory.iterdir())


def test_the_best_are_kept_as_weights_alone(tmp_path):
    save_best(tmp_path, {1: 0.3, 2: 0.9, 4: 0.5, 5: 0.6}, keep=2, step=0)
    assert steps_in(tmp_path) == [2, 5]
    whole = Placement(make_mesh(MeshConfig())).replicated
    found = restore_params(tmp_path, 2, {"w": whole})["w"]
    np.testing.assert_array_equal(found, state(2).params["w"])
    stored = sum(path.stat().st_size for path in (tmp_path / "2").rglob("*") if path.is_file())
    assert stored < 1.2 * state(2).params["w"].nbytes, "a moment lies beside the weights"


def test_the_best_after_the_restored_step_are_made_again(tmp_path):
    save_best(tmp_path, {2: 0.9, 5: 0.8}, keep=2, step=0)
    save_best(tmp_path, {5: 0.7}, keep=2, step=4)
    assert steps_in(tmp_path) == [2, 5]
    found = restore_params(tmp_path, 5, {"w": Placement(make_mesh(MeshConfig())).replicated})["w"]
    np.testing.assert_array_equal(found, state(5).params["w"])


def test_none_of_the_best_are_kept_where_none_are_asked_for(tmp_path):
    save_best(tmp_path / "best", {1: 0.3}, keep=0, step=0)
    assert not (tmp_path / "best").exists()


def test_a_full_disk_names_the_last_good_step(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    save_and_wait(checkpoints, step=1)
    with pytest.raises(UserError, match="step 1 is complete"), no_room_for_more_than(SMALL_FILE):
        save_and_wait(checkpoints, step=2)
    assert newest_step(tmp_path) == 1
    whole = Placement(make_mesh(MeshConfig())).replicated
    np.testing.assert_array_equal(
        restore_params(tmp_path, 1, {"w": whole})["w"], state(1).params["w"]
    )


def test_nothing_saved_yet_is_said(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    with pytest.raises(UserError, match="no step is saved yet"), no_room_for_more_than(SMALL_FILE):
        save_and_wait(checkpoints, step=1)


def test_a_damaged_checkpoint_is_named(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    save_and_wait(checkpoints, step=1)
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.stat().st_size > SMALL_FILE:
            path.write_bytes(path.read_bytes()[:SMALL_FILE])
    whole = Placement(make_mesh(MeshConfig())).replicated
    with pytest.raises(UserError, match=f"{tmp_path}/1: expected files as they were written"):
        restore_params(tmp_path, 1, {"w": whole})
    shapes = jax.eval_shape(lambda: state(1))
    abstract = abstract_state(shapes, jax.tree.map(lambda _: whole, shapes))
    with pytest.raises(UserError, match=f"{tmp_path}/1: expected a complete checkpoint"):
        checkpoints.restore(abstract, check="off")


def test_a_run_copied_without_its_start_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text(dump_config(load_config(CONFIG)))
    with pytest.raises(UserError, match=r"start\.json: expected the record of"):
        resolve_start(tmp_path)

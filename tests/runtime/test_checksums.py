"""A checkpoint whose files changed after they were written is refused, whatever changed in it."""

import shutil

import jax
import numpy as np
import pytest
from test_checkpoint import save_and_wait, state

from segr1_jax.config.schema import MeshConfig
from segr1_jax.errors import UserError
from segr1_jax.runtime.checkpoint import Checkpoints, abstract_state, restore_params
from segr1_jax.runtime.checksums import MANIFEST, UNCHECKED
from segr1_jax.runtime.mesh import Placement, make_mesh

FLIPS_PER_FILE = 3


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with the steps 1 and 2."""
    directory = tmp_path_factory.mktemp("saved")
    with Checkpoints(directory, keep=2) as checkpoints:
        for step in (1, 2):
            save_and_wait(checkpoints, step)
    return directory


@pytest.fixture
def steps(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def restore(directory, check: str = "stop"):
    whole = Placement(make_mesh(MeshConfig())).replicated
    shapes = jax.eval_shape(lambda: state(1))
    abstract = abstract_state(shapes, jax.tree.map(lambda _: whole, shapes))
    with Checkpoints(directory, keep=2) as checkpoints:
        return checkpoints.restore(abstract, check=check)


def restore_weights(directory, step: int):
    whole = Placement(make_mesh(MeshConfig())).replicated
    return restore_params(directory, step, {"w": whole})["w"]


def files_of(step):
    unchecked = {step / name for name in UNCHECKED}
    return sorted(p for p in step.rglob("*") if p.is_file() and p not in unchecked)


def flip(file, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def test_an_untouched_checkpoint_is_restored(steps):
    assert (steps / "2" / MANIFEST).is_file()
    found = restore(steps)
    assert found.position == 16
    np.testing.assert_array_equal(found.state.params["w"], state(2).params["w"])


def test_every_flipped_bit_is_found(steps):
    """In every file, at the start, at the end and between them."""
    random = np.random.default_rng(0)
    for file in (file for file in files_of(steps / "2") if file.name != MANIFEST):
        size, content = file.stat().st_size, file.read_bytes()
        for position in {0, size - 1, *random.integers(0, size, FLIPS_PER_FILE).tolist()}:
            flip(file, position)
            with pytest.raises(UserError, match=file.name):
                restore(steps)
            file.write_bytes(content)
    restore(steps)


@pytest.mark.parametrize("item", ["params", "train", "position"])
def test_an_item_of_another_step_is_found(steps, item):
    shutil.rmtree(steps / "2" / item)
    shutil.copytree(steps / "1" / item, steps / "2" / item)
    with pytest.raises(UserError, match=f"{item}/"):
        restore(steps)


def test_a_changed_digit_of_the_position_is_found(steps):
    file = next((steps / "2" / "position").glob("metadata"))
    file.write_text(file.read_text().replace("16", "17"))
    with pytest.raises(UserError, match=f"{steps}/2.*position/metadata"):
        restore(steps)


def test_a_missing_file_is_found(steps):
    files_of(steps / "2" / "train")[0].unlink()
    with pytest.raises(UserError, match="1 that are missing or changed: train/"):
        restore(steps)


def test_a_damaged_manifest_is_named(steps):
    (steps / "2" / MANIFEST).write_text("{")
    with pytest.raises(UserError, match=MANIFEST):
        restore(steps)


def test_the_step_before_is_used_where_allowed(steps, capsys):
    flip(files_of(steps / "2" / "params")[-1], 0)
    with pytest.raises(UserError, match="checkpoint_check=step_before"):
        restore(steps)
    found = restore(steps, check="step_before")
    assert (int(found.state.step), found.position) == (1, 8)
    assert "step 2" in capsys.readouterr().err
    assert not (steps / "2").exists(), "the run makes this step again"


def test_no_step_is_left(steps):
    for step in ("1", "2"):
        flip(files_of(steps / step / "params")[-1], 0)
    with pytest.raises(UserError, match=f"{steps}/1"):
        restore(steps, check="step_before")
    assert (steps / "2").exists(), "nothing is deleted where nothing is restored"


def test_a_check_can_be_left_out(steps):
    (steps / "2" / "position" / "metadata").write_text('{"position": 17}')
    assert restore(steps, check="off").position == 17


def test_weights_to_start_from_are_verified(steps):
    flip(files_of(steps / "2" / "train")[0], 0)
    restore_weights(steps, 2)  # of the weights alone nothing is damaged
    flip(files_of(steps / "2" / "params")[-1], 0)
    with pytest.raises(UserError, match="params/"):
        restore_weights(steps, 2)


def test_a_step_without_a_manifest_says_so(steps, capsys):
    (steps / "2" / MANIFEST).unlink()
    restore(steps)
    assert "not verified" in capsys.readouterr().err

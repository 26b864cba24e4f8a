"""Updates that are skipped: which, their effect on the state, their record, the end of the run."""

import functools
import json
import stat

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tolerances import TOL_SIMPLE

from segr1_jax.config.schema import GuardConfig
from segr1_jax.data.pipeline import Sample
from segr1_jax.errors import UserError
from segr1_jax.objective.aggregate import Mean
from segr1_jax.objective.update import Totals, init_state, make_update
from segr1_jax.reward.transport.incidents import MAX_FILES
from segr1_jax.training.update_guard import check_skips, is_sound, keep_batch
from segr1_jax.types import Example

NAN, INF = float("nan"), float("inf")
BOUNDED = GuardConfig(max_kl=0.5, max_grad_norm=10.0)


@pytest.mark.parametrize(
    ("figures", "guard", "expected"),
    [
        ({"loss": 1.0, "grad_norm": 1e9, "kl": 1e9}, GuardConfig(), True),
        ({"loss": NAN, "grad_norm": 1.0, "kl": 0.1}, GuardConfig(), False),
        ({"loss": 1.0, "grad_norm": INF, "kl": 0.1}, GuardConfig(), False),
        ({"loss": 1.0, "grad_norm": 10.0, "kl": 0.5}, BOUNDED, True),
        ({"loss": 1.0, "grad_norm": 10.1, "kl": 0.1}, BOUNDED, False),
        ({"loss": 1.0, "grad_norm": 1.0, "kl": 0.51}, BOUNDED, False),
        ({"loss": 1.0, "grad_norm": 1.0, "kl": NAN}, BOUNDED, False),
        ({"loss": 1.0, "grad_norm": 1.0}, BOUNDED, True),  # SFT
    ],
)
def test_what_is_sound(figures, guard, expected):
    assert (
        bool(is_sound({name: jnp.float32(value) for name, value in figures.items()}, guard))
        is expected
    )


def totals(gradient, loss=1.0):
    """Of a batch of weight 2."""
    return Totals(
        {"w": 2 * jnp.array(gradient)},
        {"loss": Mean(jnp.float32(2 * loss), jnp.float32(2))},
        {},
        jnp.float32(2),
    )


def assert_bitwise(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def make_step():
    optimizer = optax.adamw(optax.linear_schedule(0.1, 0.0, 10))
    update = jax.jit(
        make_update(optimizer, functools.partial(is_sound, guard=GuardConfig(max_grad_norm=100.0)))
    )
    return init_state({"w": jnp.array([1.0, -2.0])}, optimizer), update


def test_an_update_by_hand():
    """The gradient is the total over the weight.

    AdamW's first step goes by the learning rate against its sign.
    """
    state, update = make_step()
    state, metrics = update(state, totals([3.0, -4.0]), 7)
    np.testing.assert_allclose(state.params["w"], [0.9, -1.9], rtol=1e-4)
    np.testing.assert_allclose(metrics["grad_norm"], 5.0, rtol=TOL_SIMPLE)
    assert (float(metrics["loss"]), int(metrics["skipped_update"]), int(state.step)) == (1.0, 0, 7)


@pytest.mark.parametrize(
    "bad",
    [totals([NAN, 1.0]), totals([1.0, 1.0], NAN), totals([INF, 1.0]), totals([300.0, 0.0])],
    ids=["nan", "loss", "inf", "spike"],
)
def test_a_skipped_update_leaves_every_bit_and_later_ones_go_on(bad):
    state, update = make_step()
    before, _ = update(state, totals([3.0, -4.0]), 1)
    after, metrics = update(before, bad, 2)
    assert_bitwise((after.params, after.opt_state), (before.params, before.opt_state))
    assert (int(after.step), int(metrics["skipped_update"]), *map(int, after.skips)) == (2, 1, 1, 1)
    again, metrics = update(after, bad, 3)
    assert (
        tuple(map(int, again.skips))
        == (2, 2)
        == (int(metrics["skipped_in_a_row"]), int(metrics["skipped_total"]))
    )
    found, _ = update(again, totals([0.5, 1.0]), 4)
    expected, _ = update(before, totals([0.5, 1.0]), 4)
    assert_bitwise((found.params, found.opt_state), (expected.params, expected.opt_state))
    assert tuple(map(int, found.skips)) == (0, 2)
    assert update._cache_size() == 1, "nothing was compiled twice"


def figures(in_a_row, total, skipped=1):
    return {
        "skipped_update": skipped,
        "skipped_in_a_row": in_a_row,
        "skipped_total": total,
        "loss": NAN,
        "grad_norm": 3.5,
        "kl": 0.25,
    }


@pytest.mark.parametrize(
    ("found", "step", "stops"),
    [
        (figures(2, 2), 50, False),
        (figures(3, 3), 50, True),  # three in a row
        (figures(1, 3), 10, False),  # more than 10 % of 10, but no more than three
        (figures(1, 4), 39, True),  # 4 of 39 are more than 10 %
        (figures(1, 4), 40, False),
        (figures(0, 4, skipped=0), 39, False),  # a sound update never stops the run
    ],
)
def test_too_many_end_the_run(found, step, stops, tmp_path):
    guard = GuardConfig(in_a_row=3, rate=0.1)
    if not stops:
        check_skips(found, step, guard, tmp_path)
        return
    with pytest.raises(UserError) as error:
        check_skips(found, step, guard, tmp_path)
    words = (
        f"in {step} steps",
        "loss nan",
        "grad_norm 3.5",
        "kl 0.25",
        str(tmp_path),
        "optimizer.learning_rate",
    )
    assert all(word in str(error.value) for word in words), str(error.value)


def sample(position):
    return Sample(
        position,
        Example(position + 100, f"photo {position}", np.zeros((4, 4, 3), np.uint8), None),
        None,
    )


def test_a_kept_batch_reads_back_and_is_bounded(tmp_path):
    rewards = np.array([[0.5, NAN]])
    kept = {"rewards": rewards, "texts": np.array([["<think>a</think>", "b"]])}
    path = keep_batch(
        tmp_path / "incidents", 12, {"loss": np.float32(NAN), "grad_norm": 2.0}, [sample(3)], kept
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with np.load(path) as read:  # no pickle
        assert (int(read["step"]), read["example_ids"].tolist(), read["names"].tolist()) == (
            12,
            [103],
            ["photo 3"],
        )
        assert read["texts"].tolist() == [["<think>a</think>", "b"]]
        np.testing.assert_array_equal(read["rewards"], rewards)
        assert json.loads(str(read["figures"]))["grad_norm"] == 2.0
    for step in range(MAX_FILES):
        last = keep_batch(tmp_path / "incidents", step, {}, [sample(step)], {})
    assert last is None
    assert len(list((tmp_path / "incidents").iterdir())) == MAX_FILES

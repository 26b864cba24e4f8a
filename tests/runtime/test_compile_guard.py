"""Compilations after warm-up: named with what changed, and those of a checkpoint forgiven."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from segr1_jax.errors import UserError
from segr1_jax.objective.update import Skips, TrainState
from segr1_jax.runtime.checkpoint import Checkpoints
from segr1_jax.runtime.compile_guard import CompileGuard
from segr1_jax.runtime.compiled_functions import Watched


@pytest.fixture
def guard():
    guard = CompileGuard()
    yield guard
    guard.close()


@pytest.fixture
def mesh():
    return Mesh(np.array(jax.devices()), ("data",))


def place(mesh, value, *spec):
    return jax.device_put(value, NamedSharding(mesh, PartitionSpec(*spec)))


def batch(mesh, length=4, dtype=np.float32, spec=()):
    return {"tokens": place(mesh, np.ones((8, length), dtype), *spec)}


CHANGES = {
    "shape": (
        {"length": 6},
        "batch['tokens']: float32[8, 4] over P() of 8 -> float32[8, 6] over P() of 8",
    ),
    "dtype": (
        {"dtype": np.int32},
        "batch['tokens']: float32[8, 4] over P() of 8 -> int32[8, 4] over P() of 8",
    ),
    "sharding": (
        {"spec": ("data",)},
        "batch['tokens']: float32[8, 4] over P() of 8 -> float32[8, 4] over P('data',) of 8",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_argument_is_named(guard, mesh, change):
    score = Watched("score", lambda weight, batch: weight * batch["tokens"].sum())
    other, expected = CHANGES[change]
    weight, before, after = place(mesh, np.float32(2)), batch(mesh), batch(mesh, **other)
    score(weight, before)
    guard.warm()
    score(weight, before)
    guard.check()
    score(weight, after)
    with pytest.raises(UserError) as error:
        guard.check()
    assert error.value.got == f"score: {expected}"
    score(weight, before)
    score(weight, after)
    assert guard.after_warm == 1, "both are compiled by now"


def test_it_compares_with_the_nearest_call_before(guard, mesh):
    """Warm with two signatures.

    The third differs from one of them in one array, from the other in both.
    """
    add = Watched("add", lambda a, b: a.sum() + b.sum())
    add(np.ones(2), np.ones(3))
    add(np.ones(5, np.int32), np.ones(7))
    guard.warm()
    add(np.ones(5, np.int32), np.ones(8))
    with pytest.raises(UserError) as error:
        guard.check()
    assert error.value.got == "add: b: float32[7] -> float32[8]"


def test_functions_that_are_not_watched_are_named(guard):
    guard.warm()
    for length in (3, 4):
        jax.jit(jnp.cumprod)(np.ones(length))
    with pytest.raises(UserError, match=r"jit\(cumprod\) \(2 times\)"):
        guard.check()


def test_a_call_of_a_watched_function_gives_what_the_function_gives():
    power = Watched("power", lambda base, exponent: base**exponent)
    assert float(power(3.0, 2.0)) == 9
    assert "power" in power.lower(3.0, 2.0).as_text()


def test_compilations_of_a_checkpoint_are_no_faults(guard, mesh, tmp_path):
    """Orbax compiles a cut of each replicated array on 8 devices.

    The first save comes after warm-up.
    """
    params = {f"w{size}": place(mesh, np.zeros((size, 16), np.float32)) for size in (8, 24)}
    state = TrainState(
        params,
        (),
        place(mesh, np.int32(1)),
        Skips(place(mesh, np.int32(0)), place(mesh, np.int32(0))),
    )
    seen = []

    def listener(event, *_, **details):
        if "backend_compile" in event:
            seen.append(details["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listener)
    guard.warm()
    with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints, guard.expecting():
        checkpoints.save(state, 8, {})
        checkpoints.wait()
    jax.monitoring.unregister_event_duration_listener(listener)
    assert seen, "this Orbax compiles nothing: the exception may go"
    guard.check()
    jax.jit(jnp.cumsum)(np.ones(5))
    assert guard.after_warm == 1


def test_the_warm_up_is_told_once(guard, mesh, capsys):
    score = Watched("score", lambda weight, batch: weight * batch["tokens"].sum())
    score(place(mesh, np.float32(2)), batch(mesh))
    guard.warm()
    said = capsys.readouterr().err
    assert said.startswith("warm-up: ")
    assert int(said.split()[1]) >= 1
    guard.warm()
    assert capsys.readouterr().err == ""

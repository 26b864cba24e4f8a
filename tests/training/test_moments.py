"""Moments on the host: the same steps as on the devices, and checkpoints that either reads."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import TOL_SIMPLE

from segr1_jax.config.resume_rules import refused_changes
from segr1_jax.config.schema import RunConfig
from segr1_jax.objective.aggregate import Mean
from segr1_jax.objective.optimizer import make_optimizer
from segr1_jax.objective.update import Totals
from segr1_jax.policy.params import WeightSpec
from segr1_jax.runtime.checkpoint import Checkpoints, abstract_state
from segr1_jax.runtime.mesh import Placement, make_mesh
from segr1_jax.training.moments import DeviceMoments, HostMoments

SPECS = {
    "embed": WeightSpec((64, 16), ("vocab", "embed")),
    "gate": WeightSpec((3, 16, 24), (None, "embed", "mlp")),
    "up": WeightSpec((3, 16, 24), (None, "embed", "mlp")),
    "norm": WeightSpec((16,), (None,)),
}
CONFIG = RunConfig()
CONFIG = dataclasses.replace(
    CONFIG,
    mesh=dataclasses.replace(CONFIG.mesh, data=1, fsdp=4, tensor=2),
    optimizer=dataclasses.replace(
        CONFIG.optimizer, learning_rate=0.1, weight_decay=0.01, max_grad_norm=2.0, warmup_steps=2
    ),
)


def configured(**optimizer) -> RunConfig:
    return dataclasses.replace(CONFIG, optimizer=dataclasses.replace(CONFIG.optimizer, **optimizer))


@dataclasses.dataclass
class Trained:
    """A state of random weights, and its programs."""

    config: RunConfig

    def __post_init__(self):
        placement = Placement(make_mesh(self.config.mesh))
        optimizer = make_optimizer(self.config.optimizer, self.config.updates)
        on_host = self.config.optimizer.moments == "host"
        self.shardings = placement.state(SPECS, optimizer, moments_on_host=on_host)
        shapes = {
            name: jax.ShapeDtypeStruct(spec.shape, np.float32) for name, spec in SPECS.items()
        }
        self.programs = (
            HostMoments(self.config, shapes, self.shardings)
            if on_host
            else DeviceMoments(self.config, optimizer, self.shardings)
        )
        self.state = self.programs.init(self.put(0))
        self.metrics = []

    def put(self, seed: int) -> dict[str, jax.Array]:
        random = np.random.default_rng(seed)
        return {
            name: jax.device_put(
                random.normal(size=spec.shape).astype(np.float32), self.shardings.params[name]
            )
            for name, spec in SPECS.items()
        }

    def step(self, number: int, loss: float = 1.0) -> None:
        """Make an update with the gradient of this number; an infinite loss skips it."""
        mean = {"loss": Mean(jnp.float32(2 * loss), jnp.float32(2))}
        totals = Totals(self.put(number), mean, {}, jnp.float32(2))
        self.state, metrics = self.programs.update(self.state, totals, number)
        self.metrics.append(jax.device_get(metrics))

    @property
    def moments(self) -> dict[str, jax.Array]:
        found = jax.tree_util.tree_flatten_with_path(self.state.opt_state)[0]
        return {jax.tree_util.keystr(path): leaf for path, leaf in found if leaf.ndim}


def assert_close(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        # Compiled apart, a product and a sum may become one operation.
        np.testing.assert_allclose(one, other, rtol=TOL_SIMPLE, atol=TOL_SIMPLE)


@pytest.mark.parametrize("first_moment", ["float32", "bfloat16"])
def test_the_steps_are_those_of_moments_on_the_devices(first_moment):
    device = Trained(configured(first_moment=first_moment))
    host = Trained(configured(first_moment=first_moment, moments="host"))
    for number, loss in enumerate((1.0, 2.0, np.inf, 3.0), 1):
        device.step(number, loss)
        host.step(number, loss)
        assert_close(
            jax.tree.map(np.float32, jax.device_get(host.state)),
            jax.tree.map(np.float32, jax.device_get(device.state)),
        )
    assert_close(host.metrics, device.metrics)
    assert [int(each["skipped_update"]) for each in host.metrics] == [0, 0, 1, 0]
    assert all(float(each["grad_norm"]) > CONFIG.optimizer.max_grad_norm for each in host.metrics)
    assert {leaf.dtype.name for leaf in host.moments.values()} == {"float32", first_moment}


def test_a_skipped_update_leaves_every_bit():
    host = Trained(configured(moments="host"))
    host.step(1)
    before = jax.device_get((host.state.params, host.state.opt_state))
    host.step(2, np.nan)
    after = jax.device_get((host.state.params, host.state.opt_state))
    for one, other in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        assert one.tobytes() == other.tobytes()


def test_moments_stay_on_the_host_and_old_ones_are_freed():
    host = Trained(configured(moments="host"))
    for number in (1, 2):
        before = host.moments
        host.step(number)
        assert all(leaf.is_deleted() for leaf in before.values())
        assert {leaf.sharding.memory_kind for leaf in host.moments.values()} == {"pinned_host"}
        assert all(w.sharding.memory_kind == "device" for w in host.state.params.values())
        assert host.moments.keys() == before.keys()


def test_nothing_compiles_after_the_first_update():
    host = Trained(configured(moments="host"))
    host.step(1)
    steps = host.programs.steps
    assert steps["gate"] is steps["up"] is not steps["embed"]
    programs = [host.programs.clip, *steps.values()]
    sizes = [program.jitted._cache_size() for program in programs]
    assert set(sizes) == {1}
    host.step(2)
    assert [program.jitted._cache_size() for program in programs] == sizes


@pytest.mark.parametrize(("saved", "resumed"), [("host", "host"), ("host", "device"),
                                                ("device", "host")])  # fmt: skip
def test_a_checkpoint_continues_with_moments_in_either_place(tmp_path, saved, resumed):
    """A step follows the save at once, and deletes the moments that are being saved."""
    first = Trained(configured(moments=saved))
    first.step(1)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(first.state, 8, {})
        first.step(2)
    other = Trained(configured(moments=resumed))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), other.state)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        other.state = checkpoints.restore(abstract_state(shapes, other.shardings)).state
    other.step(2)
    assert_close(jax.device_get(other.state), jax.device_get(first.state))
    kinds = {leaf.sharding.memory_kind for leaf in other.moments.values()}
    assert kinds == {{"host": "pinned_host", "device": "device"}[resumed]}


def test_a_resumed_run_may_move_its_moments_but_not_round_them():
    assert not refused_changes(CONFIG, configured(moments="host"))
    assert refused_changes(CONFIG, configured(first_moment="bfloat16"))

"""Micro-batches of groups of like length, and a run whose completions change their length."""

import numpy as np
import pytest
from tiny_run import metrics, train

from segr1_jax.config.schema import MeshConfig
from segr1_jax.runtime.compiled_functions import observed_by
from segr1_jax.runtime.mesh import Placement, make_mesh
from segr1_jax.training.micro_batches import Division, capacities, rows_by_length


@pytest.mark.parametrize("tokens", [1, 255, 256, 257, 400, 1024, 2048, 3200, 8192])
def test_capacities_are_few_and_end_with_the_most(tokens):
    found = capacities(tokens)
    assert found == sorted({*found})
    assert found[-1] == tokens
    assert len(found) <= 8
    # No two of them are so close that one would be a waste.
    assert min(np.diff([0, *found])) >= min(tokens, 128)


def test_each_shard_gives_every_micro_batch_as_many_rows():
    tokens_B = np.random.default_rng(0).integers(1, 100, 24)
    parts = rows_by_length(tokens_B, shards=4, count=3)
    assert sorted(np.concatenate(parts)) == list(range(24))
    for rows in parts:
        np.testing.assert_array_equal(rows // 6, np.repeat(range(4), 2))
    for shard in range(4):
        lengths = [tokens_B[row] for rows in parts for row in rows if row // 6 == shard]
        assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("mesh", [(1, 8, 1), (2, 2, 2), (1, 1, 8)])
def test_arrays_and_rows_agree(mesh):
    """Every array of a micro-batch holds the rows that it names, in their order."""
    rows = 16
    placement = Placement(make_mesh(MeshConfig(*mesh)))
    tokens_B = np.random.default_rng(1).integers(1, 300, rows)
    values = np.random.default_rng(2).normal(size=(rows, 3))
    batch = placement.put_rows({"row": np.arange(rows, dtype=np.int32), "x": values})
    micros = Division(placement, 2, (100, 200, 300))(batch, tokens_B)
    assert micros[0].capacity >= tokens_B.max() > micros[0].capacity - 100
    for micro in micros:
        np.testing.assert_array_equal(micro.batch["row"], micro.rows)
        np.testing.assert_array_equal(micro.batch["x"], values[micro.rows].astype(np.float32))
        assert micro.capacity >= tokens_B[micro.rows].max()
        assert micro.batch["x"].sharding.is_equivalent_to(placement.rows, 2)


class Capacities:
    """Observer of a run: the capacities of its gradients and reference, by step."""

    def __init__(self):
        self.by_step: list[list[tuple[str, int]]] = []

    def begin_step(self, step: int) -> None:
        self.by_step.append([])

    def call(self, function, arguments):
        if function.name in ("gradient", "reference_logprobs"):
            self.by_step[-1].append((function.name, arguments[4]))
        return function.jitted(*arguments)


@pytest.mark.e2e
@pytest.mark.usefixtures("compile_quickly")
@pytest.mark.parametrize("steps", [4, pytest.param(200, marks=pytest.mark.slow)])
def test_completions_of_changing_length_compile_nothing_after_warm_up(
    policy_of_many_lengths, tmp_path, monkeypatch, steps
):
    """The compile guard ends a run that compiles after its first step and evaluation."""
    sizes = ["rollout.max_tokens=200", "micro_batches=4", "eval_max_tokens=4", "save_every=1000"]
    with observed_by(observer := Capacities()):
        train(
            monkeypatch,
            policy_of_many_lengths,
            tmp_path / "run",
            lambda position: (0.0, 1.0),
            *sizes,
            *(f"steps={steps}", "eval_first=true"),
        )
    assert len(metrics(tmp_path / "run")) == steps
    later = {call for calls in observer.by_step[1:] for call in calls}
    names = ("gradient", "reference_logprobs")
    assert later == {(name, capacity) for name in names for capacity in (256, 400)}
    # The first step runs every program, whatever the length of its answers.
    assert {*observer.by_step[0]} == later

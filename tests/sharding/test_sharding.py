"""8 devices and two processes of 4 against one device.

Same data order, rollout, loss and gradients.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tolerances import TOL_COMPLEX, TOL_SIMPLE

from segr1_jax.hf.tiny_policy import make_tiny_policy

WORKER = Path(__file__).parent / "worker.py"
ROOT = WORKER.parents[2]
TIMEOUT_S = 400
ROWS = ("positions", "ids", "tokens", "logprobs", "reference")


def start(
    directory: Path,
    out: Path,
    mesh: tuple[int, int, int],
    devices: int,
    micro_batches: int = 1,
    rollout_weights: str = "gathered",
    **environment: str,
) -> subprocess.Popen:
    variables = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        # Compiling for eight devices takes most of the time.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(ROOT),
    }
    arguments = [str(directory), str(out), *map(str, mesh), str(micro_batches), rollout_weights]
    return subprocess.Popen([sys.executable, str(WORKER), *arguments], env=variables | environment)


def result_of(processes: list[subprocess.Popen], out: Path) -> dict[str, np.ndarray]:
    for process in processes:
        assert process.wait(TIMEOUT_S) == 0
    return dict(np.load(out))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("sharding") / "tiny", seed=1, frame=84)


@pytest.fixture(scope="module")
def alone(directory, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "one.npz"
    return result_of([start(directory, out, (1, 1, 1), devices=1)], out)


def assert_same(found: dict[str, np.ndarray], alone: dict[str, np.ndarray]) -> None:
    """Rows are compared position by position.

    Each of several processes holds every n-th position.
    """
    order = np.argsort(found["positions"])
    found = found | {name: found[name][order] for name in ROWS}
    for name in ("positions", "ids", "tokens"):
        np.testing.assert_array_equal(found[name], alone[name], err_msg=name)
    for name in ("logprobs", "reference"):
        np.testing.assert_allclose(found[name], alone[name], atol=TOL_COMPLEX, err_msg=name)
    np.testing.assert_allclose(found["loss"], alone["loss"], rtol=TOL_SIMPLE)
    for name in alone:
        if name.startswith("grad/"):
            error = np.linalg.norm(found[name] - alone[name]) / np.linalg.norm(alone[name])
            assert error <= TOL_SIMPLE, (name, error)


@pytest.mark.parametrize(
    ("mesh", "micro_batches", "rollout_weights"),
    [
        # The two processes below have this mesh too.
        pytest.param((1, 8, 1), 1, "gathered", marks=pytest.mark.slow),
        ((2, 2, 2), 2, "sharded"),
        pytest.param((8, 1, 1), 1, "gathered", marks=pytest.mark.slow),
        pytest.param((1, 4, 2), 2, "gathered", marks=pytest.mark.slow),
    ],
    ids=["fsdp8", "2x2x2", "data8", "1x4x2"],
)
def test_eight_devices_equal_one(mesh, micro_batches, rollout_weights, alone, directory, tmp_path):
    out = tmp_path / "eight.npz"
    assert_same(
        result_of([start(directory, out, mesh, 8, micro_batches, rollout_weights)], out), alone
    )


def test_micro_batches_equal_the_whole(alone, directory, tmp_path):
    out = tmp_path / "micro.npz"
    assert_same(result_of([start(directory, out, (1, 1, 1), 1, micro_batches=4)], out), alone)


def test_two_processes_of_four_equal_one_device(alone, directory, tmp_path, free_port):
    out, address = tmp_path / "two.npz", f"127.0.0.1:{free_port}"
    processes = [
        start(
            directory,
            out,
            (1, 8, 1),
            4,
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(index),
        )
        for index in range(2)
    ]
    assert_same(result_of(processes, out), alone)

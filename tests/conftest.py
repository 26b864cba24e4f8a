"""Set-up shared by all tests.

CPU with 8 devices, runtime-checked shapes, and the folder of test data.
"""

import os
import socket
from collections import Counter
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
)
# Compiling is most of the time of the tests. Workers and commands that tests start inherit the
# folder; the key of a program holds its text, XLA's flags and its version.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".pytest_cache/xla")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

from jaxtyping import install_import_hook

install_import_hook(
    "segr1_jax", "runtime_types.typechecked"
)  # array annotations are checked while testing

pytest_plugins = ("shared_fixtures",)  # tests/support/shared_fixtures.py

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with the most whole runs first: one that starts last keeps one core idle."""
    whole_runs = Counter(item.path for item in items if item.get_closest_marker("e2e"))
    items.sort(key=lambda item: -whole_runs[item.path])


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of test data and weights beside the project.

    Tests that need it skip where it is absent.
    """
    if not SHARED.is_dir():
        pytest.skip("../shared (test data and weights beside the project) is absent")
    return SHARED


@pytest.fixture
def free_port() -> int:
    """A TCP port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

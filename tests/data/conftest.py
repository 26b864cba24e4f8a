"""The published sets at toy size."""

import shutil
from pathlib import Path

import pytest

from segr1_jax.data.sets.toy import write_toy_sets


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sets") / "toy"
    write_toy_sets(root)
    return root


@pytest.fixture
def own(toy, tmp_path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(toy, tmp_path / "own")

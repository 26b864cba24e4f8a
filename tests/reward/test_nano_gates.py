"""The gates of the nano SAM2 that ships, on fewer images than launch/nano_sam2/train.py prints."""

import sys
from pathlib import Path

import pytest

from segr1_jax.reward.sidecar.model_files import NANO_CHECKPOINT, NANO_CONFIG, build_model
from segr1_jax.reward.sidecar.sam2_model import Sam2

sys.path.append(str(Path(__file__).parents[2] / "launch" / "nano_sam2"))
from gates import GATES, measure_gates

pytestmark = pytest.mark.e2e  # a quality of the weights, whichever Python runs them

IMAGES = 90
LARGEST_BYTES = 8_000_000


@pytest.fixture(scope="module")
def values():
    return measure_gates(
        Sam2(build_model(NANO_CONFIG, NANO_CHECKPOINT, postprocessing=False)), IMAGES
    )


@pytest.mark.parametrize("gate", GATES)
def test_gate(values, gate):
    assert values[gate] >= GATES[gate], values


def test_the_weights_are_small():
    assert NANO_CHECKPOINT.stat().st_size <= LARGEST_BYTES

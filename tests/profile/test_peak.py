"""Peak FLOP/s by the names that JAX gives to devices."""

import jax
import pytest

from segr1_jax.config.hardware import DEVICES
from segr1_jax.profile.peak import peak_at_hand, peak_of

KINDS = {
    "NVIDIA A100-SXM4-80GB": "a100",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200": "h200",
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
}


@pytest.mark.parametrize("kind", KINDS)
def test_known_devices(kind):
    assert peak_of(kind) == DEVICES[KINDS[kind]].flops


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA GeForce RTX 4090", "TPU v4", "TPU v6 lite"])
def test_unknown_devices(kind):
    assert peak_of(kind) is None


def test_a_given_peak_is_that_of_one_device():
    assert peak_at_hand(2e12)[0] == 2e12 * len(jax.devices())
    assert peak_at_hand(None)[0] is None
    assert "--peak-flops" in peak_at_hand(None)[1]

"""Calls of CUDA by the sidecar, with CUDA's initialization faked.

torch's own checks of arguments run.
"""

import json

import pytest
import torch

from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.sidecar import server as sidecar
from segr1_jax.reward.transport.command import settings_json


@pytest.fixture
def asked(monkeypatch):
    """(share, device) of every limit that reaches CUDA, on a machine with two GPUs."""
    limits = []
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch._C, "_cuda_setMemoryFraction", lambda *limit: limits.append(limit), raising=False
    )
    return limits


def settings(device: str) -> sidecar.Settings:
    config = RewardConfig(device=device, gpu_memory=0.25)
    return sidecar.Settings(**json.loads(settings_json(config, 3, 4)))


@pytest.mark.parametrize(
    ("device", "limits"), [("cuda", [(0.25, 0)]), ("cuda:1", [(0.25, 1)]), ("cpu", [])]
)
def test_the_share_of_a_gpu_is_asked_for(asked, device, limits):
    sidecar._limit_memory(settings(device))
    assert asked == limits

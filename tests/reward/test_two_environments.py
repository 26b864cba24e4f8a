"""The trainer without torch, its sidecar without anything of the trainer.

Two environments, the same scores as in one.
"""

import json
import os
import pickle
import subprocess
import tomllib

import pytest
from bare_environments import ROOT, build_wheel, make_environment

from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.config import RewardConfig

SIDECAR_NEEDS = ("numpy", "torch", "sam2", "safetensors")
TRAINER = """
import importlib.util, json, pickle, sys
import segr1_jax
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.config import RewardConfig

with open("requests.pkl", "rb") as file:
    requests = pickle.load(file)
with RewardClient(RewardConfig(python=sys.argv[1])) as client:
    scores = client.collect(client.submit(requests))
without = ""
try:
    import torch
except ModuleNotFoundError as error:
    without = error.name
figures = [(s.status.value, s.iou.hex(), s.s_measure.hex()) for s in scores]
print(json.dumps([segr1_jax.__file__, without, figures]))
"""
WHAT_IS_THERE = """
import importlib.util, json, sys
print(json.dumps([name for name in sys.argv[1:] if importlib.util.find_spec(name)]))
"""


def _run(python, code, *arguments, cwd):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    }
    command = [python, "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_trainer_without_torch_is_served_by_a_sidecar_with_little_more(requests, tmp_path):
    wheel = build_wheel(tmp_path)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    trainer = make_environment(tmp_path / "trainer", project["dependencies"], wheel)
    sidecar = make_environment(tmp_path / "sidecar", SIDECAR_NEEDS, wheel)
    foreign = ("jax", "flax", "jaxtyping", "transformers", "scipy", "rich")
    assert _run(sidecar, WHAT_IS_THERE, *foreign, "torch", "sam2", "segr1_jax", cwd=tmp_path) == [
        "torch",
        "sam2",
        "segr1_jax",
    ]

    (tmp_path / "requests.pkl").write_bytes(pickle.dumps(requests))
    package, without, scores = _run(trainer, TRAINER, sidecar, cwd=tmp_path)
    assert package.startswith(str(tmp_path / "trainer"))
    assert without == "torch"
    with RewardClient(RewardConfig()) as client:
        here = client.collect(client.submit(requests))
    assert [tuple(score) for score in scores] == [
        (s.status.value, s.iou.hex(), s.s_measure.hex()) for s in here
    ]

"""Sidecars on GPUs: one for each by default, explicit settings first.

Without CUDA there is one sentence.
"""

import ctypes
from pathlib import Path

import pytest
from tiny_run import small_config

from segr1_jax.cli import main
from segr1_jax.errors import UserError
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.transport import gpus
from segr1_jax.training.loop import run_grpo


class Driver:
    """libcuda of a machine with `count` GPUs, or one whose initialization fails with `status`."""

    def __init__(self, count: int, status: int = 0):
        self.count, self.status = count, status

    def cuInit(self, flags):
        return self.status

    def cuDeviceGetCount(self, count):
        count._obj.value = self.count
        return 0


@pytest.fixture
def machine(monkeypatch):
    """Give this process the GPUs of a driver, or None for no driver."""

    def _has(driver: Driver | None) -> None:
        def load(name):
            assert name == "libcuda.so.1"
            if driver is None:
                raise OSError(f"{name}: cannot open shared object file")
            return driver

        gpus.visible_gpus.cache_clear()
        monkeypatch.setattr(ctypes, "CDLL", load)

    yield _has
    gpus.visible_gpus.cache_clear()


@pytest.mark.parametrize(
    ("settings", "devices", "share"),
    [
        ({"device": "cuda"}, [f"cuda:{i}" for i in range(8)], 0.75),
        ({"device": "cuda", "gpu_memory": 0.1}, [f"cuda:{i}" for i in range(8)], 0.85),
        ({"device": "cuda:0"}, ["cuda:0"], 0.75),
        ({"device": "cuda", "sidecars": 2}, ["cuda:0", "cuda:1"], 0.75),
        ({"device": "cuda:1, cuda:3"}, ["cuda:1", "cuda:3"], 0.75),
        ({"device": "cuda:0,cuda:1", "sidecars": 4}, ["cuda:0", "cuda:1"] * 2, 0.55),
        ({"device": "cpu"}, ["cpu"], None),
        ({"device": "cpu", "sidecars": 3}, ["cpu"] * 3, None),
    ],
)
def test_where_sidecars_run_on_a_host_of_eight_gpus(machine, settings, devices, share):
    machine(Driver(8))
    placed = gpus.placed_here(RewardConfig(**settings))
    assert list(placed.devices) == devices
    assert placed.sidecars == len(devices)
    assert placed.share_of_jax == (share and pytest.approx(share))
    assert placed.placed(8) == placed


def test_each_sidecar_is_started_on_its_own_gpu(machine):
    machine(Driver(8))
    client = RewardClient(RewardConfig(device="cuda"))
    started = [channel._config for channel in client._channels]
    assert [(config.sidecars, config.device) for config in started] == [
        (1, f"cuda:{index}") for index in range(8)
    ]
    client.close()


@pytest.mark.parametrize(
    ("driver", "device", "words"),
    [
        (None, "cuda", "libcuda.so.1: cannot open"),
        (Driver(0), "cuda:0", "got no GPU"),
        (Driver(0, status=100), "cuda", "CUDA error 100"),
        (Driver(2), "cuda:0,cuda:2", "one of the 2 GPUs that this process sees, got cuda:2"),
    ],
)
def test_training_on_absent_gpus_ends_in_one_sentence_before_a_run_directory(
    machine, tmp_path, capsys, driver, device, words
):
    machine(driver)
    run, policy = tmp_path / "run", tmp_path / "tiny"
    make_tiny_policy(policy, seed=1, frame=84)
    arguments = [f"policy.path={policy}", f"run_dir={run}", f"reward.device={device}"]
    assert main(["train", "configs/quickstart_grpo.yaml", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "reward.device" in said
    assert words in said
    assert not run.exists()


def test_a_cpu_needs_no_driver(machine):
    machine(None)
    assert gpus.placed_here(RewardConfig()).devices == ("cpu",)


def test_a_sam2_that_cannot_start_leaves_its_output_in_a_file_and_no_run_directory(tmp_path):
    make_tiny_policy(tmp_path / "tiny", seed=1, frame=84)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    sam2 = (f"reward.sam2_config={tmp_path / 'absent.yaml'}", f"reward.sam2_checkpoint={broken}")
    with pytest.raises(UserError) as error:
        run_grpo(small_config(tmp_path / "tiny", tmp_path / "run", *sam2))
    sentence = str(error.value)
    assert len(sentence) < 700
    assert "\n" not in sentence
    assert "broken.safetensors" in sentence
    assert "Traceback" in Path(error.value.remedy.split()[-1]).read_text()
    assert not (tmp_path / "run").exists()

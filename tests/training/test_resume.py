"""A run that is killed, stopped or moved to other devices ends like an uninterrupted one.

Real runs: a cold start long enough for answers that parse, then GRPO with the sidecar. On one
device the end is bit-identical.
"""

import os
import random
import signal
import time

import numpy as np
import pytest
from PIL import Image
from tolerances import TOL_COMPLEX
from training_runs import (
    DEADLINE_S,
    assert_same_end,
    command,
    final_checkpoint,
    finish,
    kill,
    last_step,
    sidecars_of,
    start,
    timeless_metrics,
    wait_for_step,
)

from segr1_jax.data.config import DataConfig
from segr1_jax.data.synthetic import generate
from segr1_jax.hf.tiny_policy import make_tiny_policy

STAGES = [("sft", "quickstart_sft.yaml", "tiny"), ("train", "quickstart_grpo.yaml", "sft")]
KILLS = 20
PREEMPTED = 143  # 128 + SIGTERM, as schedulers know it
SECONDS_TO_FIRST_STEP = 15.0  # about; half of the kills fall into this

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with a policy that answers in the format."""
    folder = tmp_path_factory.mktemp("resume")
    make_tiny_policy(folder / "tiny", seed=0)
    finish(
        command(
            "sft",
            "quickstart_sft.yaml",
            "run_dir=sft",
            "policy.path=tiny",
            "steps=120",
            "eval_every=0",
            "save_every=60",
        ),
        folder,
    )
    return folder


def words_of(stage: str, config: str, policy: str, run: str, *overrides: str) -> list[str]:
    rest = ("steps=6", "eval_every=3", "optimizer.warmup_steps=2", *overrides)
    return command(stage, config, f"run_dir={run}", f"policy.path={policy}", *rest)


@pytest.fixture(scope="module", params=STAGES, ids=["sft", "grpo"])
def stage(request, folder):
    """Return (name, function from a run's name to its words) of a stage.

    One run of it was not interrupted: folder/NAME_whole.
    """
    name, config, policy = request.param
    finish(words_of(name, config, policy, f"{name}_whole"), folder)
    return name, lambda run, *overrides: words_of(name, config, policy, run, *overrides)


def test_killed_at_a_random_moment(stage, folder):
    name, words = stage
    run, shared_memory = folder / f"{name}_killed", set(os.listdir("/dev/shm"))
    process = start(words(run.name), folder)
    wait_for_step(process, run, step=3)
    time.sleep(random.random())
    assert process.poll() is not None or sidecars_of(process.pid), (
        "the check below would see nothing"
    )
    kill(process)
    time.sleep(5)
    assert not sidecars_of(process.pid), "a sidecar outlived its trainer"
    assert set(os.listdir("/dev/shm")) == shared_memory
    finish(words(run.name), folder)
    assert_same_end(run, folder / f"{name}_whole")


def test_stopped_by_sigterm(stage, folder):
    name, words = stage
    run = folder / f"{name}_stopped"
    process = start(words(run.name), folder)
    wait_for_step(process, run, step=1)
    for pid in (
        process.pid,
        *map(int, sidecars_of(process.pid)),
    ):  # as schedulers do that signal every process of a job
        os.kill(pid, signal.SIGTERM)
    assert process.wait(DEADLINE_S) == PREEMPTED
    stopped_at = last_step(run)
    assert stopped_at < 6
    assert int(final_checkpoint(run)["train/step"]) == stopped_at
    finish(words(run.name), folder)
    assert_same_end(run, folder / f"{name}_whole")


def test_killed_twenty_times(folder):
    def words(run: str) -> list[str]:
        steps = ("steps=40", "save_every=1", "eval_every=20")
        return words_of("train", "quickstart_grpo.yaml", "sft", run, *steps)

    finish(words("many_whole"), folder)
    run, rng = folder / "many_killed", random.Random(0)
    for index in range(KILLS):
        process = start(words(run.name), folder)
        if index % 2:
            wait_for_step(process, run, last_step(run) + rng.choice((1, 2)))
            time.sleep(rng.uniform(0, 0.5))
        else:
            time.sleep(rng.uniform(0, SECONDS_TO_FIRST_STEP))
        kill(process)
    finish(words(run.name), folder)
    assert_same_end(run, folder / "many_whole")


def write_photos(folder, section: str, seed: int, broken: set[int]) -> list[str]:
    """Write forty pictures, those in `broken` damaged in the middle; return the keys for them."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for index in range(40):
        example = generate(DataConfig(level="bright", size=168, seed=seed), index)
        path = folder / "images" / f"{index}.png"
        Image.fromarray(example.image).save(path)
        Image.fromarray(example.mask).save(folder / "masks" / f"{index}.png")
        if index in broken:
            # The check before training reads headers and ends; only decoding finds this.
            content, middle = bytearray(path.read_bytes()), path.stat().st_size // 2
            content[middle : middle + 8] = bytes(8)
            path.write_bytes(content)
    parts = [f"{section}.{part}={folder / part}" for part in ("images", "masks")]
    return [f"{section}.kind=folder", *parts]


def test_killed_with_broken_pictures_in_the_set(folder):
    """What was skipped before a kill is known after it: counted once, listed once."""
    data = write_photos(folder / "photos", "data", seed=2, broken={5, 17})
    data += write_photos(folder / "held_out", "eval_data", seed=1, broken={3})

    def words(run: str) -> list[str]:
        steps = ("steps=12", "save_every=3", "eval_every=6", *data)
        return words_of("train", "quickstart_grpo.yaml", "sft", run, *steps)

    finish(words("broken_whole"), folder)
    whole, run = folder / "broken_whole", folder / "broken_killed"
    assert timeless_metrics(whole)[-1]["step"] == 12
    assert max(line.get("skipped", 0) for line in timeless_metrics(whole)) == 2
    for step in (4, 8):
        process = start(words(run.name), folder)
        wait_for_step(process, run, step)
        kill(process)
    finish(words(run.name), folder)
    assert_same_end(run, whole)


def assert_close_end(ours, whole):
    """Assert the same data, and figures that differ only by the order of sums.

    Greedy answers and masks may flip on a rounding.
    """
    found, expected = final_checkpoint(ours), final_checkpoint(whole)
    assert int(found["position/position"]) == int(expected["position/position"])
    for ours_line, line in zip(timeless_metrics(ours), timeless_metrics(whole), strict=True):
        assert (ours_line["step"], ours_line.get("position")) == (
            line["step"],
            line.get("position"),
        )
        if "loss" in line:
            np.testing.assert_allclose(ours_line["loss"], line["loss"], rtol=TOL_COMPLEX)
    for name in (name for name in expected if name.startswith("params/")):
        distance = np.linalg.norm(found[name] - expected[name])
        assert distance <= TOL_COMPLEX * np.linalg.norm(expected[name]) + TOL_COMPLEX, name


def sft(run: str, *overrides: str) -> list[str]:
    # A large epsilon: Adam divides by the size of the gradient, so the sign of a rounding error
    # would be a whole step of a weight.
    return words_of(
        "sft", "quickstart_sft.yaml", "tiny", run, "mesh.fsdp=-1", "optimizer.eps=1e-2", *overrides
    )


@pytest.fixture(scope="module")
def on_one_device(folder):
    finish(sft("one_device"), folder)
    return folder / "one_device"


def test_eight_devices_to_two(on_one_device, folder):
    process = start(sft("moved"), folder, devices=8)
    wait_for_step(process, folder / "moved", step=2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == PREEMPTED
    finish(sft("moved"), folder, devices=2)
    assert_close_end(folder / "moved", on_one_device)


@pytest.mark.parametrize("moments", ["device", "host"])
def test_two_processes_to_one(moments, on_one_device, folder, free_port):
    run, place = folder / f"joined_{moments}", f"optimizer.moments={moments}"
    where = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port}", "JAX_NUM_PROCESSES": "2"}
    both = [
        start(sft(run.name, place), folder, devices=4, JAX_PROCESS_ID=str(index), **where)
        for index in range(2)
    ]
    wait_for_step(both[0], run, step=2)
    both[1].send_signal(signal.SIGTERM)  # one is told; all agree on the step they stop after
    assert [process.wait(DEADLINE_S) for process in both] == [PREEMPTED, PREEMPTED]
    finish(sft(run.name), folder)
    assert_close_end(run, on_one_device)

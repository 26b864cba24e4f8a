"""Samples that cannot be used, in whole tiny runs.

They are skipped, counted, and known to a run that is resumed.
"""

import functools
import json
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image
from tiny_run import FakeClient, ScriptedScorer, metrics, small_config, train, use_one_device

from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.reward.client import Stats
from segr1_jax.training.loop import run_sft

LIVE = (0.0, 1.0)
SECTIONS = ("data", "eval_data")

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("compile_quickly")]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("runs") / "tiny", seed=1, frame=84)


def write_set(folder: Path, count: int, bad: set[int]) -> list[str]:
    """A folder set; pictures in `bad` have a whole header and half of their pixels."""
    rng = np.random.default_rng(0)
    for index in range(count):
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        path = folder / "images" / f"{index}.jpg"
        Image.fromarray(rng.integers(0, 256, (84, 84, 3), np.uint8)).save(path)
        mask = np.zeros((84, 84), np.uint8)
        mask[20:60, 20:60] = 255
        Image.fromarray(mask).save(folder / "masks" / f"{index}.png")
        if index in bad:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    paths = {"kind": "folder", "images": f"{folder}/images", "masks": f"{folder}/masks"}
    return [f"{data}.{name}={value}" for data in SECTIONS for name, value in paths.items()]


class Quarantining(FakeClient):
    """Every step has one request in quarantine."""

    seen: ClassVar = Counter()

    def stats(self):
        return Stats(Counter(self.seen), time.perf_counter())


class Counting(ScriptedScorer):
    """Counts what the client of the moment has seen."""

    def begin(self, samples):
        Quarantining.seen += Counter(scores=16, quarantined=1)
        return super().begin(samples)


def test_a_resumed_run_knows_what_was_skipped(policy, tmp_path, monkeypatch):
    data = write_set(tmp_path / "set", 20, bad={3, 11})
    data += [f"eval_data.{part}={tmp_path}/held_out/{part}" for part in ("images", "masks")]
    write_set(tmp_path / "held_out", 8, bad={2})
    options = (*data, "steps=4", "objective.beta=0.04")

    def run(folder, interrupt_at=None):
        def reward(position):
            if position == interrupt_at:
                raise InterruptedError
            return LIVE

        Quarantining.seen = Counter()
        train(
            monkeypatch,
            policy,
            folder,
            reward,
            *options,
            client=Quarantining,
            scorer=Counting,
        )

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(whole)
    lines = metrics(whole)
    # Each epoch of 20 has both, and a step has 8.
    assert lines[-1]["skipped"] == 2
    with pytest.raises(InterruptedError):
        run(cut, interrupt_at=26)  # inside step 4, after the first epoch
    run(cut)
    assert metrics(cut) == lines
    found, expected = (position_of(folder, 4) for folder in (cut, whole))
    assert found == expected
    assert expected["processes"][0]["requests"] == {"scores": 64, "quarantined": 4}
    report = (whole / "report.md").read_text()
    assert report.count("- skipped") == 3
    assert (cut / "report.md").read_text().replace("cut", "whole") == report


def position_of(run: Path, step: int) -> dict:
    with ocp.CheckpointManager(run / "checkpoints") as manager:
        items = ocp.args.Composite(position=ocp.args.JsonRestore())
        return manager.restore(step, args=items)["position"]


def test_an_answer_that_is_too_long_is_skipped(policy, tmp_path, monkeypatch):
    """As a prompt that is too long is; the batch gets another sample."""
    use_one_device(monkeypatch)
    config = functools.partial(small_config, policy, tmp_path / "run", "stage=sft", "steps=2")
    records = []
    manifest = {"kind": "jsonl", "manifest": f"{tmp_path}/set.jsonl"}
    source = [f"{data}.{name}={value}" for data in SECTIONS for name, value in manifest.items()]
    write_set(tmp_path, 12, bad=set())
    answer = (
        "<think>{}</think> <bbox>[1,2,30,40]</bbox>, <points>[[9,9]]</points>, <labels>[1]</labels>"
    )
    for index in range(12):
        thought = "a small object at the top left " * (8 if index == 5 else 1)
        record = {"image": f"images/{index}.jpg", "answer": answer.format(thought.strip())}
        records.append(json.dumps(record | {"mask": f"masks/{index}.png"}))
    (tmp_path / "set.jsonl").write_text("\n".join(records) + "\n")
    run_sft(config(*source, "rollout.max_tokens=80"), connect=FakeClient)
    assert [line["skipped"] for line in metrics(tmp_path / "run")][-1] == 1
    report = (tmp_path / "run" / "report.md").read_text()
    assert "images/5.jpg: answer" in report
    assert "rollout.max_tokens" in report

"""Whole runs of a tiny policy: pictures at every evaluation, and the completions of each step.

An interrupted run leaves the same ones.
"""

import io
import json

import numpy as np
import pytest
from PIL import Image
from tiny_run import GROUP, train

from segr1_jax.common.drawing import GAP
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.runtime.tensorboard_files import _records

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("compile_quickly")]

STEPS, SHOWN = 4, 3
OPTIONS = (f"steps={STEPS}", "eval_every=2", "save_every=2", f"log.completions={SHOWN}")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("runs") / "tiny", seed=1, frame=84)


def rewards(position: int) -> tuple[float, float]:
    return (position % 5 / 5, 1.0)


def pictures(run) -> list[tuple[int, str, np.ndarray]]:
    from tensorboardX.proto.event_pb2 import Event

    files = sorted((run / "tb").glob("events*"), key=lambda file: file.stat().st_mtime_ns)
    events = [Event.FromString(r[12:-4]) for f in files for r, _ in _records(f.read_bytes())]
    return [
        (event.step, value.tag, pixels(value.image.encoded_image_string))
        for event in events
        for value in event.summary.value
        if value.HasField("image")
    ]


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.fixture(scope="module")
def whole(policy, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        train(patch, policy, run, rewards, *OPTIONS)
    return run


def test_the_same_samples_are_shown_at_every_evaluation(whole):
    found = pictures(whole)
    assert [step for step, *_ in found] == [step for step in (0, 2, 4) for _ in range(8)]
    tags = [tag for _, tag, _ in found]
    assert tags == [f"eval/sample_{index:06d}" for index in range(8)] * 3
    assert {panel.shape for *_, panel in found} == {(84, 3 * 84 + 2 * GAP, 3)}
    images = {(tag, panel[:, :84].tobytes()) for _, tag, panel in found}
    assert len(images) == 8, "the first of the three pictures is the image, which does not change"


def test_completions_have_the_rewards_of_their_group(whole):
    records = [json.loads(line) for line in (whole / "completions.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [s for s in range(1, 5) for _ in range(SHOWN)]
    for record in records:
        assert record["total"] == rewards(record["position"])[record["number"]]
        assert np.sign(record["advantage"]) == (
            0 if len(set(rewards(record["position"]))) == 1 else 2 * record["number"] - 1
        )
    places = [(record["position"], record["number"]) for record in records[:SHOWN]]
    assert places == [divmod(index, GROUP) for index in range(SHOWN)]
    assert (whole / "report.html").read_text().count("<details>") == STEPS


def test_an_interrupted_run_leaves_the_same(policy, whole, tmp_path, monkeypatch):
    def failing(position: int) -> tuple[float, float]:
        if position == 3 * 8:  # in step 4; step 3 is not saved
            raise InterruptedError
        return rewards(position)

    run = tmp_path / "run"
    with pytest.raises(InterruptedError):
        train(monkeypatch, policy, run, failing, *OPTIONS)
    assert b'"step": 3' in (run / "completions.jsonl").read_bytes()
    train(monkeypatch, policy, run, rewards, *OPTIONS)
    content = (run / "completions.jsonl").read_bytes()
    assert content == (whole / "completions.jsonl").read_bytes()
    for one, other in zip(pictures(run), pictures(whole), strict=True):
        assert one[:2] == other[:2]
        np.testing.assert_array_equal(one[2], other[2])

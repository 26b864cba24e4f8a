"""TensorBoard, and trackers that work in threads.

A tracker that fails, hangs or comes late costs the run nothing and is given later what it lacks.
"""

import io
import threading
import time

import numpy as np
import pytest
from logged_runs import FIGURES, SIX_STEPS, TAGS, config_of, directory, train
from PIL import Image

from segr1_jax.runtime.metrics_log import MetricsWriter, read_metrics
from segr1_jax.runtime.run_directory import RunDir
from segr1_jax.runtime.tensorboard_files import _records
from segr1_jax.runtime.trackers import background, connect
from segr1_jax.runtime.trackers.tracker import without_credentials

# TensorBoard


def summaries(run: RunDir) -> list[tuple[int, object]]:
    from tensorboardX.proto.event_pb2 import Event

    files = sorted(run.tensorboard.glob("events*"), key=lambda file: file.stat().st_mtime_ns)
    bodies = [record[12:-4] for file in files for record, _ in _records(file.read_bytes())]
    events = map(Event.FromString, bodies)
    return [(event.step, value) for event in events for value in event.summary.value]


def test_tensorboard_groups_tags_and_shows_the_configuration(tmp_path):
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    config = config_of(tmp_path, "tensorboard")
    train(config, 0, 2)
    found = summaries(directory(config))
    scalars = {value.tag for _, value in found if value.HasField("simple_value")}
    assert scalars == TAGS | {"eval/iou"}
    text = {v.tag: v.tensor.string_val[0].decode() for _, v in found if v.tensor.string_val}
    assert "    run_dir: " in text["config/text_summary"]
    assert "    <b>answer</b> of 2" in text["eval/sample_000003/answer/text_summary"]
    plugins = {v.tag: HParamsPluginData.FromString(v.metadata.plugin_data.content)
               for _, v in found if v.metadata.plugin_data.plugin_name == "hparams"}  # fmt: skip
    values = plugins["_hparams_/session_start_info"].session_start_info.hparams
    assert values["optimizer.b2"].number_value == config.optimizer.b2
    assert values["log.to"].string_value == '["jsonl", "tensorboard"]'
    assert "hunter2" not in text["config/text_summary"] + values["checkpoint_dir"].string_value


def test_tensorboard_has_the_pictures_of_every_evaluation(tmp_path):
    config = config_of(tmp_path, "tensorboard")
    train(config, 0, 6)
    train(config, 4, 6)
    images = [(step, v.image) for step, v in summaries(directory(config)) if v.HasField("image")]
    assert [step for step, _ in images] == [2, 4, 6]
    shown = [np.asarray(Image.open(io.BytesIO(image.encoded_image_string))) for _, image in images]
    assert [pixels[0, 0, 0] for pixels in shown] == [20, 40, 60]


def test_tensorboard_that_is_added_later_gets_the_steps_before(tmp_path):
    train(config_of(tmp_path), 0, 3)
    config = config_of(tmp_path, "tensorboard")
    train(config, 3, 4)
    found = summaries(directory(config))
    assert [step for step, value in found if value.tag == "train/reward"] == [1, 2, 3, 4]
    assert any(value.tag == "config/text_summary" for _, value in found)


def test_credentials_in_urls_are_removed():
    assert without_credentials("a: gs://u:p@b/c\nb: x@y") == "a: gs://b/c\nb: x@y"


# Trackers in threads


class FakeTracker:
    """A tracker in memory; `fault` raises or waits at one of its calls."""

    def __init__(self, identity, rows: list, fault):
        self.rows, self.fault, self.identity = rows, fault, identity
        fault("connect", None)

    def write(self, row):
        self.fault("write", row)
        kind = "eval" if "eval/iou" in row.figures else "train"
        self.rows.append((row.step, kind))

    def close(self, *, failed):
        self.fault("close", None)
        self.rows.append(("closed", failed))


@pytest.fixture
def fake(monkeypatch):
    """Replace wandb by a FakeTracker: returns its rows and a function that sets the fault."""
    rows, identities, faults = [], [], {"now": lambda call, row: None}

    def make(identity):
        identities.append(identity)
        return FakeTracker(identity, rows, lambda call, row: faults["now"](call, row))

    monkeypatch.setitem(connect.THIRD_PARTY, "wandb", make)
    return rows, identities, lambda fault: faults.update(now=fault)


def steps(rows: list) -> list:
    return [row for row in rows if row[0] != "closed"]


def test_no_row_comes_twice_or_out_of_order_over_resumes(tmp_path, fake):
    """Killed before the first checkpoint, then after steps that are trained again."""
    rows, identities, _ = fake
    config = config_of(tmp_path, "wandb")
    for first, last in ((0, 2), (0, 5), (4, 6), (6, 6)):
        train(config, first, last)
    assert steps(rows) == SIX_STEPS
    assert len({identity.id for identity in identities}) == 1


def test_a_killed_run_gets_the_evaluation_of_its_restored_step(tmp_path, fake):
    rows, _, _ = fake
    config = config_of(tmp_path, "wandb")
    train(config, 0, 3)
    with MetricsWriter(directory(config), config, 3) as writer:
        writer.write(4, FIGURES)
    with MetricsWriter(directory(config), config, 4) as writer:
        writer.write(4, {"eval/iou": 0.1})
    assert steps(rows) == SIX_STEPS[:6]


def test_a_run_that_begins_anew_is_a_new_run_of_the_tracker(tmp_path, fake):
    rows, identities, _ = fake
    config = config_of(tmp_path, "wandb")
    train(config, 0, 2)
    directory(config).metrics.unlink()
    train(config, 0, 2)
    assert steps(rows) == SIX_STEPS[:3] * 2
    assert identities[0].id != identities[1].id


@pytest.mark.parametrize("call", ["connect", "write", "close"])
@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_tracker_that_fails_is_named_and_given_the_rest_at_the_next_resume(
    tmp_path, fake, capsys, call, error
):
    rows, _, set_fault = fake
    config = config_of(tmp_path, "wandb")

    def fault(at, row):
        if at == call and (row is None or row.step == 3):
            raise error("the\nserver says no")

    set_fault(fault)
    train(config, 0, 4)
    run = directory(config)
    assert [line["step"] for line in read_metrics(run)] == [step for step, _ in SIX_STEPS[:6]]
    message = capsys.readouterr().err
    assert message.count("the run continues without it") == 1
    assert f"wandb: {error.__name__}: the server says no" in message
    assert "server says no" in (run.incidents / "tracker_wandb.txt").read_text()
    set_fault(lambda call, row: None)
    train(config, 4, 6)
    # The row at which it failed may have reached it: it is not written again.
    lost = [(3, "train")] if call == "write" else []
    assert steps(rows) == [row for row in SIX_STEPS if row not in lost]


def test_a_tracker_that_hangs_does_not_hold_the_run(tmp_path, fake, capsys, monkeypatch):
    _, _, set_fault = fake
    monkeypatch.setattr(background, "CLOSE_TIMEOUT_S", 0.2)
    released = threading.Event()
    set_fault(lambda call, row: released.wait(20))
    config = config_of(tmp_path, "wandb")
    began = time.monotonic()
    train(config, 0, 4)
    assert time.monotonic() - began < 5
    assert "wandb: not finished after 0.2 s" in capsys.readouterr().err
    released.set()


def test_a_tracker_that_falls_behind_is_left(tmp_path, fake, capsys, monkeypatch):
    _, _, set_fault = fake
    monkeypatch.setattr(background, "MOST_WAITING", 3)
    released = threading.Event()
    set_fault(lambda call, row: released.wait(20))
    config = config_of(tmp_path, "wandb")
    train(config, 0, 6)
    message = capsys.readouterr().err
    assert message.count("wandb: 3 rows behind") == 1
    released.set()


def test_a_tracker_learns_that_the_run_failed(tmp_path, fake):
    rows, _, _ = fake
    config = config_of(tmp_path, "wandb")
    with pytest.raises(ZeroDivisionError), MetricsWriter(directory(config), config):
        raise ZeroDivisionError
    assert rows == [("closed", True)]

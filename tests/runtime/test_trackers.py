"""TensorBoard, wandb and trackio: what they were given is read back from their own files.

A tracker that fails, hangs or comes late costs the run nothing and is given later what it lacks.
"""

import io
import json
import sqlite3
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import wandb_file
from PIL import Image

from segr1_jax.config.log import LogConfig
from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError
from segr1_jax.runtime.metrics_log import MetricsWriter, read_metrics
from segr1_jax.runtime.run_directory import RunDir, claim_run_dir, make_run_dir
from segr1_jax.runtime.tensorboard_files import _records
from segr1_jax.runtime.trackers import background, connect, wandb_tracker
from segr1_jax.runtime.trackers.tracker import Picture, without_credentials

FIGURES = {"reward": 0.5, "time/step_s": 1.0, "parse/ok": 0.25, "sidecar/restarts": 0}
TAGS = {"train/reward", "time/step_s", "parse/ok", "sidecar/restarts"}
SECRET = "gs://reader:hunter2@bucket/run"


def config_of(folder: Path, *names: str) -> RunConfig:
    log = LogConfig(to=["jsonl", *names])
    return RunConfig(run_dir=str(folder / "run"), log=log, checkpoint_dir=SECRET)


def directory(config: RunConfig) -> RunDir:
    run = RunDir(Path(config.run_dir))
    run.path.mkdir(exist_ok=True)
    return run


def picture(step: int) -> Picture:
    pixels = np.full((4, 6, 3), 10 * step, np.uint8)
    return Picture("eval/sample_000003", pixels, f"cat.png: ok\n<b>answer</b> of {step}")


def train(config: RunConfig, first: int, last: int) -> None:
    """Log steps after the restored `first`, with an evaluation at each even one."""
    with MetricsWriter(directory(config), config, first) as writer:
        for step in range(first + 1, last + 1):
            writer.write(step, FIGURES | {"reward": step / 10})
            if step % 2 == 0:
                writer.write(step, {"eval/iou": step / 100}, [picture(step)])


# The order of what `train` writes from step 1 to 6.
SIX_STEPS = [(step, kind) for step in range(1, 7) for kind in ("train", "eval")[: 2 - step % 2]]


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


# The packages themselves


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """The package, which will read its settings again, without any of this machine."""
    package = pytest.importorskip("wandb", reason="the extra wandb is not installed")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    package.teardown()
    yield package
    package.teardown()


def test_wandb_offline(tmp_path, monkeypatch, wandb):
    monkeypatch.setenv("WANDB_MODE", "offline")
    connect.require_credentials(LogConfig(to=["jsonl", "wandb"]))
    config = config_of(tmp_path, "wandb")
    train(config, 0, 5)
    train(config, 4, 6)
    wandb.teardown()  # as at the end of the process: the file is complete then
    files = sorted(directory(config).path.glob("wandb/offline-run-*/run-*.wandb"))
    (first, rows, exit_code), (_, later, _) = map(wandb_file.read, files)
    assert exit_code == 0
    assert first["optimizer.b2"] == config.optimizer.b2
    assert first["log.to"] == ["jsonl", "wandb"]
    assert "hunter2" not in json.dumps(first)
    kinds = [(row["step"], "eval" if "eval/iou" in row else "train") for row in rows + later]
    assert kinds == SIX_STEPS
    assert rows[0].keys() >= TAGS
    assert later[-1]["eval/sample_000003/caption"] == picture(6).text
    assert (files[1].parent / "files" / later[-1]["eval/sample_000003/path"]).is_file()
    assert files[0].name != files[1].name, "wandb sync would overwrite the rows of the first"


@pytest.mark.slow  # wandb tries for about 10 s
def test_wandb_without_a_connection_records_offline(
    tmp_path, monkeypatch, capsys, free_port, wandb
):
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port}")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr(wandb_tracker, "INIT_TIMEOUT_S", 2)
    config = config_of(tmp_path, "wandb")
    train(config, 0, 2)
    wandb.teardown()
    run = directory(config)
    (file,) = run.path.glob("wandb/offline-run-*/run-*.wandb")
    assert [row["step"] for row in wandb_file.read(file)[1]] == [1, 2, 2]
    assert capsys.readouterr().err.count("wandb: no connection") == 1
    recorded = [path.read_bytes() for path in run.path.rglob("*") if path.is_file()]
    assert not any(b"k" * 40 in content for content in recorded)


@pytest.mark.parametrize("key", [None, "short"])
@pytest.mark.usefixtures("wandb")
def test_wandb_without_credentials_is_refused_before_the_run(monkeypatch, key):
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    with pytest.raises(UserError, match="wandb login"):
        connect.require_credentials(LogConfig(to=["jsonl", "wandb"]))


def test_trackio_local_store(tmp_path, monkeypatch):
    trackio = pytest.importorskip("trackio", reason="the extra trackio is not installed")
    config = config_of(tmp_path, "trackio")
    monkeypatch.setattr(trackio.sqlite_storage, "TRACKIO_DIR", tmp_path / "store")
    for first, last in ((0, 5), (4, 6)):
        train(config, first, last)
    with sqlite3.connect(tmp_path / "store" / "segr1.db") as store:
        order = "select run_name, step, metrics from metrics order by id"
        found = [(name, step, json.loads(text)) for name, step, text in store.execute(order)]
        ((settings,),) = store.execute("select config from configs").fetchall()
    kinds = [(step, "eval" if "eval/iou" in row else "train") for _, step, row in found]
    assert kinds == SIX_STEPS
    assert found[0][2].keys() == TAGS
    assert len({name for name, _, _ in found}) == 1
    assert found[-1][2]["eval/sample_000003"]["caption"] == picture(6).text
    assert json.loads(settings)["optimizer.b2"] == config.optimizer.b2
    assert "hunter2" not in str(settings)


def test_completions_are_cut_as_metrics_are(tmp_path):
    config = config_of(tmp_path)
    run = make_run_dir(RunConfig(run_dir=config.run_dir))
    claim_run_dir(run, RunConfig(run_dir=config.run_dir))
    records = [{"text": "Größe \u202e", "total": float("nan")}, {"text": "b", "total": 1.0}]

    def write(first: int, last: int) -> bytes:
        with MetricsWriter(run, config, first) as writer:
            for step in range(first + 1, last + 1):
                writer.write_completions(step, records)
        return run.completions.read_bytes()

    whole = write(0, 5)
    with run.completions.open("a") as file:
        file.write('{"step": 6, "te')
    assert write(3, 5) == whole == write(0, 5)
    first = json.loads(whole.splitlines()[0], parse_constant=pytest.fail)
    assert first == {"step": 1, "text": "Größe \u202e", "total": "nan"}

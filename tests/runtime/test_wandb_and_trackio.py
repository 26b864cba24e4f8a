"""wandb and trackio: what they were given is read back from their own files.

Tests skip where the extra is not installed.
"""

import json
import sqlite3

import pytest
import wandb_file
from logged_runs import SIX_STEPS, TAGS, config_of, directory, picture, train

from segr1_jax.config.log import LogConfig
from segr1_jax.errors import UserError
from segr1_jax.runtime.trackers import connect, wandb_tracker


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

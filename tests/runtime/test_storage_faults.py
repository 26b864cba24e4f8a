"""A full or read-only disk, wherever a run writes.

It ends the run with one sentence that names the last good step.
"""

import errno
import os
from pathlib import Path

import pytest
from tiny_run import CONFIG, SMALL, without_sidecar

from segr1_jax.cli import main
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.runtime import run_directory as rundir
from segr1_jax.runtime.metrics_log import MetricsWriter
from segr1_jax.training import evaluation_files, run_page
from segr1_jax.training import final_report as closing

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("compile_quickly")]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("runs") / "tiny", seed=1, frame=84)


def full(*arguments, **_):
    file = next((str(each) for each in arguments if isinstance(each, Path)), None)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file)


def after(count: int, original):
    """`original`, until it was called `count` times; then the disk is full."""
    calls = iter(range(count))

    def write(*arguments, **options):
        return (full if next(calls, None) is None else original)(*arguments, **options)

    return write


def train(monkeypatch, policy, run) -> int:
    without_sidecar(monkeypatch, lambda position: (0.0, 1.0))
    options = [f"policy.path={policy}", f"run_dir={run}", "steps=2", "eval_every=1"]
    return main(["train", str(CONFIG), *SMALL, *options])


# name: the object that is patched, its attribute, calls that still succeed, what the message holds
SITES = {
    "metrics": (MetricsWriter, "write", 2, "step 1 is complete"),
    "page": (run_page, "write_report", 0, "step 2 is complete"),
    "run directory": (rundir, "write_atomically", 0, "no step is saved yet"),
    "first evaluation": (evaluation_files, "write_atomically", 0, "no step is saved yet"),
    "evaluation": (evaluation_files, "write_atomically", 2, "step 1 is complete"),
    "baselines": (closing, "write_atomically", 0, "step 2 is complete"),
    "report": (closing, "write_atomically", 3, "step 2 is complete"),
}
FAST = ("metrics",)  # the others meet the fault on the same way out


@pytest.mark.parametrize(
    "site", [pytest.param(s, marks=[] if s in FAST else pytest.mark.slow) for s in SITES]
)
def test_a_full_disk_ends_in_one_sentence(monkeypatch, policy, tmp_path, capsys, site):
    place, name, calls, kept = SITES[site]
    with monkeypatch.context() as patch:
        patch.setattr(place, name, after(calls, getattr(place, name)))
        status = train(patch, policy, tmp_path / "run")
    last = capsys.readouterr().err.splitlines()[-1]
    assert (status, last.startswith("segr1: ")) == (2, True), last
    assert "No space left on device" in last
    assert kept in last
    assert train(monkeypatch, policy, tmp_path / "run") == 0, "the same command goes on"
    assert (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "run" / "report.md").is_file()


def test_a_run_directory_below_a_file_is_named(monkeypatch, policy, tmp_path, capsys):
    (tmp_path / "notes").write_text("x")
    assert train(monkeypatch, policy, tmp_path / "notes" / "run") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("segr1: ")
    assert "notes" in last

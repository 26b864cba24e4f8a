"""Run directory, metric lines, TensorBoard, progress.

Above all that a resumed run leaves what an uninterrupted one leaves.
"""

import contextlib
import io
import json
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
from full_disk import SMALL_FILE, no_room_for_more_than

from segr1_jax.config.loading import load_config
from segr1_jax.config.schema import RunConfig
from segr1_jax.errors import UserError
from segr1_jax.runtime.metrics_log import MetricsWriter, PhaseTimer, read_metrics
from segr1_jax.runtime.progress import Progress, show_markdown
from segr1_jax.runtime.run_directory import RunDir, claim_run_dir, make_run_dir
from segr1_jax.runtime.tensorboard_files import _records
from segr1_jax.runtime.trackers.tracker import Picture


def open_run_dir(config: RunConfig) -> RunDir:
    run = make_run_dir(config)
    claim_run_dir(run, config)
    return run


CONFIG = RunConfig()


@pytest.fixture
def run(tmp_path):
    return open_run_dir(RunConfig(run_dir=str(tmp_path / "run")))


PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
NOISE = Picture("eval/sample_000000", PIXELS, "noise")


def _board_steps(run) -> list[int]:
    files = sorted(run.tensorboard.glob("events*"))
    return [step for file in files for _, step in _records(file.read_bytes()) if step]


def test_run_directory_is_complete_and_reopens(tmp_path):
    config = RunConfig(run_dir=str(tmp_path / "a" / "run"))
    run = open_run_dir(config)
    assert run.config.is_file()
    assert run.hash.read_text().strip()
    assert run.checkpoints.is_dir()
    assert open_run_dir(config) == run
    assert [path.name for path in run.path.parent.iterdir()] == ["run"], "no draft is left"


def test_run_directory_of_another_config_names_the_fields(tmp_path):
    run = open_run_dir(RunConfig(run_dir=str(tmp_path / "run")))
    run.metrics.write_text('{"step": 1}\n')
    with pytest.raises(UserError, match="seed: 0 -> 5"):
        open_run_dir(RunConfig(run_dir=str(tmp_path / "run"), seed=5))


def test_a_run_that_never_began_does_not_bind_the_next_configuration(tmp_path):
    open_run_dir(RunConfig(run_dir=str(tmp_path / "run")))
    run = open_run_dir(RunConfig(run_dir=str(tmp_path / "run"), steps=5))
    assert load_config(run.config).steps == 5


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"config\.yaml"):
        open_run_dir(RunConfig(run_dir=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_becomes_a_run(tmp_path):
    assert open_run_dir(RunConfig(run_dir=str(tmp_path))).config.is_file()


def test_lines_are_sorted_flushed_and_readable(run):
    with MetricsWriter(run, CONFIG) as writer:
        writer.write(1, {"train/b": np.float32(0.5), "train/a": 2, "train/nan": math.nan})
        line = run.metrics.read_text()  # before close: flushed
    assert line == '{"step": 1, "train/a": 2, "train/b": 0.5, "train/nan": "nan"}\n'


def test_resume_cuts_lines_and_events_after_the_restored_step(run):
    with MetricsWriter(run, CONFIG) as writer:
        for step in range(1, 6):
            writer.write(step, {"train/reward": step / 10})
    with run.metrics.open("a") as file:
        file.write('{"step": 6, "train/re')  # a kill in the middle of a line
    torn = next(run.tensorboard.glob("events*"))
    torn.write_bytes(torn.read_bytes() + b"\x07\x00\x00")
    with MetricsWriter(run, CONFIG, start_step=3) as writer:
        writer.write(4, {"train/reward": 0.4})
    assert [line["step"] for line in read_metrics(run)] == [1, 2, 3, 4]
    assert _board_steps(run) == [1, 2, 3, 4]
    assert all(json.loads(line) for line in run.metrics.read_text().splitlines())


def test_figures_that_are_not_finite_are_read_back_as_numbers(run):
    figures = {"loss": math.nan, "kl": math.inf, "grad_norm": -math.inf, "reward": 0.5}
    with MetricsWriter(run, CONFIG) as writer:
        writer.write(1, figures)
    with MetricsWriter(run, CONFIG, start_step=1):
        line = read_metrics(run)[0]
    assert math.isnan(line.pop("loss"))
    assert line == {"step": 1, "kl": math.inf, "grad_norm": -math.inf, "reward": 0.5}
    strict = json.loads(run.metrics.read_text(), parse_constant=pytest.fail)
    assert strict["loss"] == "nan", "JSON has no NaN"


def test_a_full_disk_is_met_at_the_write(run):
    """A background writer would die without a word and block the run once its queue is full."""
    with MetricsWriter(run, CONFIG) as writer:
        for step in range(1, 5):
            writer.write(step, {}, [NOISE])
        with pytest.raises(OSError, match="File too large"), no_room_for_more_than(SMALL_FILE):
            writer.write(5, {}, [NOISE])


def test_nothing_restored_starts_clean(run):
    with MetricsWriter(run, CONFIG) as writer:
        writer.write(0, {"eval/iou": 0.1})
    with MetricsWriter(run, CONFIG, start_step=0) as writer:
        writer.write(0, {"eval/iou": 0.1})
    assert len(read_metrics(run)) == 1


def test_completions_are_cut_as_metrics_are(run):
    records = [{"text": "Größe \u202e", "total": float("nan")}, {"text": "b", "total": 1.0}]

    def write(first: int, last: int) -> bytes:
        with MetricsWriter(run, CONFIG, first) as writer:
            for step in range(first + 1, last + 1):
                writer.write_completions(step, records)
        return run.completions.read_bytes()

    whole = write(0, 5)
    with run.completions.open("a") as file:
        file.write('{"step": 6, "te')
    assert write(3, 5) == whole == write(0, 5)
    first = json.loads(whole.splitlines()[0], parse_constant=pytest.fail)
    assert first == {"step": 1, "text": "Größe \u202e", "total": "nan"}


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


def test_every_moment_counts_for_the_innermost_phase_and_all_add_up(clock):
    """Per step: 1 s outside of phases, 2 s of rollout, 16 s of update.

    The update holds 4 s of input, of which 0.5 s are encoding.
    """
    timer = PhaseTimer()
    for _ in range(2):
        clock.now += 1
        with timer("rollout"):
            clock.now += 2
        with timer("update"):
            clock.now += 10
            with timer("input"):
                clock.now += 3.5
                with timer("encode"):
                    clock.now += 0.5
            clock.now += 2
    seconds = {"other": 1, "rollout": 2, "update": 12, "input": 3.5, "encode": 0.5, "step": 19}
    assert timer.take(steps=2) == {f"time/{name}_s": value for name, value in seconds.items()}
    clock.now += 7
    assert timer.take(steps=1) == {"time/other_s": 7, "time/step_s": 7}


def test_a_phase_that_fails_ends(clock):
    timer = PhaseTimer()
    with contextlib.suppress(ZeroDivisionError), timer("update"), timer("input"):
        clock.now += 1
        raise ZeroDivisionError
    clock.now += 2
    assert timer.take(steps=1) == {
        "time/input_s": 1,
        "time/update_s": 0,
        "time/other_s": 2,
        "time/step_s": 3,
    }


def test_progress_prints_plain_lines_where_there_is_no_terminal():
    stream = io.StringIO()
    with Progress("grpo", total=2, stream=stream) as progress:
        progress.update(1, {"reward": 1.0})
        progress.update(2, {"reward": 1.25})
    assert stream.getvalue() == "grpo 2/2  left 0:00:00  reward 1.250\n"


def test_progress_and_markdown_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with Progress("sft", total=2, start=1, stream=stream) as progress:
        progress.update(2, {"loss": 0.5})
    show_markdown("| a |\n|---|\n| 1 |\n", stream)
    assert "2/2" in stream.getvalue()
    assert "loss 0.500" in stream.getvalue()

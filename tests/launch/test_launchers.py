"""The scripts that start runs: lint, what each process is told, exit status and signals.

`segr1` is a stub that writes down what it got.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
STUB = """\
#!/usr/bin/env bash
place="$JAX_PROCESS_ID of $JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS"
echo "$place: $*" > "told_${JAX_PROCESS_ID:-alone}"
echo "$XLA_FLAGS" > flags
trap 'exit 143' TERM
[[ $1 == wait ]] && { sleep 60 & wait; }
[[ $1 == fail && $JAX_PROCESS_ID == 1 ]] && exit 7
[[ $1 == stop && $JAX_PROCESS_ID == 0 ]] && kill -STOP $$
[[ $1 == stop ]] && exit 9
exit 0
"""


@pytest.fixture
def project(tmp_path):
    """A project with the launchers and a stub of segr1."""
    shutil.copytree(ROOT / "launch", tmp_path / "launch", ignore=shutil.ignore_patterns("*.py"))
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    stub = tmp_path / ".venv" / "bin" / "segr1"
    stub.write_text(STUB)
    stub.chmod(0o755)
    return tmp_path


def start(project: Path, *words: str, **more: str) -> subprocess.Popen:
    environment = os.environ | {"XLA_FLAGS": "--xla_mine=1"} | more
    return subprocess.Popen(["bash", *words], cwd=project, env=environment)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
    tool = Path(sys.executable).parent / "shellcheck"
    result = subprocess.run(
        [tool, "-x", script.relative_to(ROOT)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


def test_every_process_is_told_its_place(project):
    assert start(project, "launch/processes.sh", "2", "train", "my config", "steps=1").wait(30) == 0
    told = [(project / f"told_{index}").read_text() for index in range(2)]
    assert [text.split(" at ")[0] for text in told] == ["0 of 2", "1 of 2"]
    assert {text.split(" at ")[1] for text in told} == {told[0].split(" at ")[1]}
    assert told[0].endswith(": train my config steps=1\n")
    assert (project / "flags").read_text().split() == [
        "--xla_mine=1",
        "--xla_force_host_platform_device_count=1",
    ]


def test_the_first_failure_is_the_status(project):
    assert start(project, "launch/processes.sh", "3", "fail").wait(30) == 7


def test_a_stopped_process_is_killed_once_another_has_failed(project):
    job = start(project, "launch/processes.sh", "2", "stop", GRACE="1")
    assert job.wait(30) == 9


def test_sigterm_reaches_every_process(project):
    job = start(project, "launch/processes.sh", "2", "wait")
    deadline = time.monotonic() + 20
    while (
        not all((project / f"told_{index}").exists() for index in range(2))
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    time.sleep(0.3)  # for the stubs to set their traps
    job.send_signal(signal.SIGTERM)
    assert job.wait(20) == 143


def test_one_process_on_this_host(project):
    assert start(project, "launch/local.sh", "train", "config.yaml").wait(30) == 0
    assert (project / "told_alone").read_text().endswith(": train config.yaml\n")


def test_xla_knows_the_flags(project):
    """XLA ends a process that is given a flag it does not know."""
    (project / ".venv" / "segr1-kind").write_text("cuda13\n")
    assert start(project, "launch/local.sh", "train").wait(30) == 0
    flags = (project / "flags").read_text().replace("--xla_mine=1", "").strip()
    assert "--xla_gpu_" in flags
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    subprocess.run(
        command, env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}, check=True
    )

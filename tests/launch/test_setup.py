"""launch/setup.sh on machines that cannot be set up.

One clear sentence, a non-zero status, nothing taken for whole.
"""

import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "awk", "cat", "cut", "dirname", "df", "mkdir", "rm", "sha256sum", "uname")
HEALTHY = {
    "python3": 'case "$*" in *pip\\ install*) echo "no route to host"; exit 1 ;; *) exit 0 ;; esac'
}


@pytest.fixture
def machine(tmp_path):
    """Function that runs setup.sh in a bare copy of the project, with stubs for some tools."""
    project, tools = tmp_path / "project", tmp_path / "tools"
    (project / "launch").mkdir(parents=True)
    tools.mkdir()
    shutil.copy(ROOT / "launch" / "setup.sh", project / "launch")
    shutil.copy(ROOT / "pyproject.toml", project)
    for tool in TOOLS:
        (tools / tool).symlink_to(shutil.which(tool))

    def _run(*arguments: str, **stubs: str) -> subprocess.CompletedProcess:
        for name, script in stubs.items():
            (tools / name).unlink(missing_ok=True)
            (tools / name).write_text(f"#!{shutil.which('bash')}\n{script}\n")
            (tools / name).chmod(0o755)
        environment = os.environ | {
            "PATH": str(tools),
            "HOME": str(tmp_path),
            "PYENV_ROOT": str(tmp_path),
        }
        return subprocess.run(
            ["bash", "launch/setup.sh", *arguments],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
        )

    _run.project = project
    return _run


@pytest.mark.parametrize(
    ("arguments", "stubs", "words"),
    [
        (["gpu"], {}, "unknown kind of machine 'gpu'; usage: bash launch/setup.sh [cpu|"),
        ([], {"nvidia-smi": "echo 470.82"}, "the NVIDIA driver is 470"),
        (["cpu"], {"uname": "echo Darwin"}, "runs on Linux, and this is Darwin"),
        (["cpu", "--fast"], {}, "--fast"),
        (["cpu", "--python", "new"], {}, "a version such as 3.12"),
        (
            ["cpu"],
            {"python3": "[[ $1 == --version ]] && echo Python 3.8.10; exit 1"},
            "python3 is Python 3.8.10",
        ),
        (["cpu", "--python", "3.12"], {"python3": "exit 1"}, "no Python 3.12 found"),
        (["cpu"], HEALTHY | {"df": "printf 'h\\nd 9 9 2000000 1%% /\\n'"}, "only 1 GB free"),
    ],
)
def test_one_sentence_and_nothing_made(machine, arguments, stubs, words):
    result = machine(*arguments, **stubs)
    assert result.returncode == 1
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (machine.project / ".venv").exists()


@pytest.mark.parametrize(
    ("driver", "kind"),
    [
        ("printf '580.65.06\\n580.65.06\\n'", "cuda13"),
        ("echo 575.51", "cuda12"),
        ("echo No devices were found; exit 6", "cpu"),
    ],
)
def test_the_driver_decides_where_no_kind_is_named(machine, driver, kind):
    small = "printf 'h\\nd 9 9 90000000 1%% /\\n'"
    result = machine(
        df=small,
        python3="[[ $1 == --version ]] && echo Python 3.12.1; exit 0",
        **{"nvidia-smi": driver},
    )
    assert f"setup: {kind}, Python 3.12.1" in result.stdout


def test_an_environment_keeps_its_kind(machine):
    (machine.project / ".venv").mkdir()
    (machine.project / ".venv" / "segr1-kind").write_text("tpu\n")
    result = machine(df="printf 'h\\nd 9 9 90000000 1%% /\\n'", **HEALTHY)
    assert "setup: tpu" in result.stdout


def test_without_network_the_environment_is_not_taken_for_ready(machine):
    make_venv = f"mkdir -p $3/bin && ln -sf {machine.project.parent}/tools/python3 $3/bin/python"
    python = f'if [[ "$*" == "-m venv"* ]]; then {make_venv}; exit; fi\n{HEALTHY["python3"]}'
    result = machine(
        "cpu",
        python3=python,
        ln=f'exec {shutil.which("ln")} "$@"',
        df="printf 'h\\nd 9 9 90000000 1%% /\\n'",
    )
    assert result.returncode == 1
    assert "check network" in result.stderr
    assert "no route to host" in result.stderr
    assert not (machine.project / ".venv" / "segr1-ready").exists()


def test_a_cuda12_trainer_gets_nothing_that_brings_torch(machine):
    """torch for CUDA 13 and jax[cuda12] overwrite each other's cuDNN.

    `dev` holds peft, which needs torch.
    """
    log, tools = machine.project / "pip.log", machine.project.parent / "tools"
    make_venv = "mkdir -p $3/bin; printf '%s' \"$STUB\" >$3/bin/python; chmod 755 $3/bin/python"
    stub = f'#!{shutil.which("bash")}\ncase "$*" in *install*) echo "$0 $*" >>{log} ;; esac'
    python = f'STUB=\'{stub}\'\nif [[ "$*" == "-m venv"* ]]; then {make_venv}; fi'
    (tools / "chmod").symlink_to(shutil.which("chmod"))
    result = machine("cuda12", python3=python, df="printf 'h\\nd 9 9 90000000 1%% /\\n'")
    assert result.returncode == 0, result.stderr
    calls = [line.partition(" ") for line in log.read_text().splitlines()]
    trainer = [what for python, _, what in calls if python == ".venv/bin/python"]
    sidecar = [what for python, _, what in calls if python == ".venv-sidecar/bin/python"]
    assert any("[cuda12,eval,hub]" in what for what in trainer)
    assert any("[sidecar,eval,dev]" in what for what in sidecar)
    assert not any("torch" in what or "dev" in what or "sam2" in what for what in trainer)
    assert not any("cuda12" in what for what in sidecar)


def test_an_environment_of_somebody_else_is_left_alone(machine):
    theirs = machine.project / ".venv" / "precious"
    theirs.mkdir(parents=True)
    result = machine("cpu", **HEALTHY, df="printf 'h\\nd 9 9 90000000 1%% /\\n'")
    assert result.returncode == 1
    assert "was not made by this script" in result.stderr
    assert theirs.exists()


def test_a_ready_environment_returns_at_once(machine):
    recipe = (machine.project / "pyproject.toml").read_bytes() + (
        machine.project / "launch" / "setup.sh"
    ).read_bytes()
    (machine.project / ".venv").mkdir()
    (machine.project / ".venv" / "segr1-ready").write_text(
        f"cpu {hashlib.sha256(recipe).hexdigest()[:16]}\n"
    )
    began = time.perf_counter()
    assert machine("cpu", python3="exit 1").returncode == 0
    assert time.perf_counter() - began < 1

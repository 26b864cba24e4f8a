"""Every shell script of launch/: it parses, and a dry run with stubs for what it starts.

tests/launch/test_launchers.py has shellcheck for all, and signals and exit statuses of those that
start processes; tests/launch/test_setup.py has the faults of setup.sh.
"""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
NOTE = '#!/usr/bin/env bash\necho "$(basename "$0") $*" >>"$TOLD"\n'


@pytest.fixture
def dry_run(tmp_path):
    """Runs a script in a copy of the project; returns the commands that its stubs were given."""
    project, tools, told = tmp_path / "project", tmp_path / "tools", tmp_path / "told"
    shutil.copytree(ROOT / "launch", project / "launch", ignore=shutil.ignore_patterns("*.py"))
    (project / ".venv" / "bin").mkdir(parents=True)
    tools.mkdir()
    _stub(project / ".venv" / "bin" / "ruff")
    _stub(project / ".venv" / "bin" / "segr1")
    _stub(project / ".venv" / "bin" / "python")

    def _run(script: str, *words: str, status: int = 0, **variables: str) -> list[str]:
        environment = {"PATH": f"{tools}:{os.environ['PATH']}", "TOLD": str(told), **variables}
        command = ["bash", f"launch/{script}", *words]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
        assert done.returncode == status, done.stdout + done.stderr
        return told.read_text().splitlines() if told.exists() else []

    _run.project, _run.tools = project, tools
    return _run


def _stub(path: Path, script: str = NOTE) -> None:
    path.unlink(missing_ok=True)
    path.write_text(script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_every_script_has_its_test():
    tested = {name.removeprefix("test_") for name in globals()}
    assert {path.stem for path in SCRIPTS} <= tested


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_it_parses(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["cpu", "gpu", "tpu"])
def test_flags(dry_run, kind):
    """What is set already stays, and the rest is added once."""
    script = dry_run.project / "show.sh"
    script.write_text(
        "set -eu\nsource launch/flags.sh $1\nsource launch/flags.sh $1\n"
        'echo "${XLA_FLAGS:-}|${LIBTPU_INIT_ARGS:-}" >>"$TOLD"\n'
    )
    mine = "--xla_gpu_enable_latency_hiding_scheduler=false"
    (line,) = dry_run("../show.sh", kind, XLA_FLAGS=mine)
    xla, tpu = (part.split() for part in line.split("|"))
    assert xla[0] == mine
    assert (len(xla) > 1, len(tpu) > 0) == (kind == "gpu", kind == "tpu")
    names = [flag.split("=")[0] for flag in xla + tpu]
    assert len(set(names)) == len(names)


def test_local(dry_run):
    assert dry_run("local.sh", "train", "a b.yaml", "steps=1") == ["segr1 train a b.yaml steps=1"]


def test_processes(dry_run):
    _stub(
        dry_run.project / ".venv/bin/python", f'#!/usr/bin/env bash\nexec {sys.executable} "$@"\n'
    )
    assert dry_run("processes.sh", "2", "train", "c.yaml") == ["segr1 train c.yaml"] * 2


def test_quickstart(dry_run):
    """A ready environment; stages that are done already are left out, the others run in order."""
    _stub(dry_run.project / "launch" / "setup.sh")
    (dry_run.project / "runs/quickstart/tiny").mkdir(parents=True)
    (dry_run.project / "runs/quickstart/tiny/config.json").touch()
    told = dry_run("quickstart.sh")
    assert [" ".join(line.split()[:2]) for line in told] == [
        "setup.sh",
        "segr1 sft",
        "segr1 train",
        "segr1 export",
        "python -c",  # is there torch?
        "python launch/export_check.py",
        "segr1 eval",
        "segr1 predict",
    ]
    for line in told[1:]:
        for word in line.split()[1:]:
            if word.startswith(("configs/", "launch/")):
                assert (ROOT / word).is_file(), line


def test_quickstart_stops_at_a_failed_stage(dry_run):
    _stub(dry_run.project / "launch" / "setup.sh")
    _stub(dry_run.project / ".venv/bin/segr1", f"{NOTE}[[ $1 != train ]]\n")
    assert dry_run("quickstart.sh", status=1)[-1] == "segr1 train configs/quickstart_grpo.yaml"


def test_setup(dry_run):
    dry_run("setup.sh", "gpu", status=1)
    dry_run("setup.sh", "cuda12", "--python", "new", status=1)


def test_slurm(dry_run):
    """Every node's process is told its place; a saved run is queued again."""
    _stub(
        dry_run.tools / "scontrol", f'{NOTE}[[ $1 == show ]] && printf "node7\\nnode8\\n"\nexit 0\n'
    )
    _stub(dry_run.tools / "srun", '#!/usr/bin/env bash\nshift\nSLURM_PROCID=1 exec "$@"\n')
    segr1 = f'{NOTE}echo "$JAX_COORDINATOR_ADDRESS $JAX_PROCESS_ID $JAX_NUM_PROCESSES" >>"$TOLD"\n'
    _stub(dry_run.project / ".venv/bin/segr1", f"{segr1}exit 143\n")
    job = {"SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2"}
    project = str(dry_run.project)
    told = dry_run("slurm.sh", "train", "c.yaml", status=143, SLURM_SUBMIT_DIR=project, **job)
    assert told == [
        "scontrol show hostnames node[7-8]",
        "segr1 train c.yaml",
        "node7:20005 1 2",
        "scontrol requeue 5",
    ]


def test_stages(dry_run):
    told = [line.split() for line in dry_run("stages.sh", "steps=3")]
    assert [words[1] for words in told] == ["tiny", "sft", "train", "train", "train"]
    assert all(words[-1] == "steps=3" for words in told[1:])
    before = "runs/stages/tiny"
    for words in told[1:]:
        assert f"policy.path={before}" in words
        before = next(
            word.removeprefix("run_dir=") for word in words if word.startswith("run_dir=")
        )


def test_test(dry_run):
    _stub(dry_run.project / "launch" / "setup.sh")
    told = dry_run("test.sh", "-m", "slow")
    assert told[0].split() == ["setup.sh"]
    assert told[-1] == "python -m pytest -m slow"


def test_tpu_pod(dry_run):
    """The arguments reach the hosts as they were given."""
    _stub(dry_run.tools / "gcloud", '#!/usr/bin/env bash\nprintf "%s\\n" "$@" >>"$TOLD"\n')
    told = dry_run("tpu_pod.sh", "pod", "zone", "train", "a b.yaml", "x=[1,2]")
    command = told[-1]
    assert "--zone=zone" in told
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {command.split('bin/segr1 ')[1]}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert words == ["train", "a b.yaml", "x=[1,2]"]

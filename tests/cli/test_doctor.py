"""Each check of the doctor on a machine that is well and on one that is not."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from segr1_jax.cli import doctor
from segr1_jax.common import requirements
from segr1_jax.common.interpreters import interpreter_of_torch

JAX = SpecifierSet(">=0.10.2,<0.13")
SIDECAR = {
    "python": "3.11.7",
    "torch": "2.9.1+cu130",
    "torchvision": "0.24",
    "sam2": "1.1.0",
    "safetensors": "0.8.1",
    "omegaconf": "2.4.0",
}


@pytest.mark.parametrize(
    ("check", "status", "word"),
    [
        (doctor.check_python((3, 11)), "ok", "3.11"),
        (doctor.check_python((3, 9)), "fail", "3.9"),
        (doctor.check_package("jax", {"jax": "0.10.2"}, JAX), "ok", "0.10.2"),
        (doctor.check_package("jax", {"jax": "0.12.0.dev3+gpu"}, JAX), "ok", "0.12.0.dev3+gpu"),
        (doctor.check_package("jax", {"jax": "0.9.9"}, JAX), "fail", "0.9.9, not <0.13,>=0.10.2"),
        (doctor.check_package("jax", {"jax": "0.13.0"}, JAX), "fail", "0.13.0, not <0.13"),
        (doctor.check_package("jax", {}, JAX), "fail", "missing"),
        (doctor.check_torch_devices(lambda: ["H100", "H100"], gpu=True), "ok", "2 x H100"),
        (doctor.check_torch_devices(list, gpu=False), "ok", "cpu"),
        (doctor.check_torch_devices(list, gpu=True), "warn", "cpu"),
        (doctor.check_cudnn({"nvidia-cudnn-cu13": "9.1"}), "ok", "cu13"),
        (
            doctor.check_cudnn({"nvidia-cudnn-cu13": "9.1", "nvidia-cudnn-cu12": "9.0"}),
            "fail",
            "cu12 and",
        ),
        (doctor.check_disk(100.0), "ok", "100.0 GB"),
        (doctor.check_disk(0.5), "warn", "0.5 GB"),
    ],
)
def test_status_and_remedy(check, status, word):
    assert check.status == status
    assert word in check.found
    assert bool(check.remedy) == (status != "ok")


def test_requirements_are_those_of_pyproject():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    core = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)[1]
    names = re.findall(r'^  "([\w-]+)', core, re.MULTILINE)
    assert list(requirements.required()) == [name.lower().replace("_", "-") for name in names]
    assert requirements.required()["jax"] == JAX
    assert set(requirements.required("sidecar")) == set(SIDECAR) - {"python"}


def test_an_installed_package_reads_its_own_metadata(tmp_path, monkeypatch):
    asked = ["jax>=0.10", 'gradio>=6; extra == "demo"', 'torch>=2; extra == "sidecar"']
    monkeypatch.setattr(requirements.importlib.metadata, "requires", lambda _: asked)
    monkeypatch.setattr(requirements, "PYPROJECT", tmp_path / "pyproject.toml")
    for write in ("", '[project]\nname = "other"\n'):
        if write:
            requirements.PYPROJECT.write_text(write)
        assert requirements.required() == {"jax": SpecifierSet(">=0.10")}
        assert requirements.required("demo") == {"gradio": SpecifierSet(">=6")}


def test_an_old_package_here_or_in_an_extra_is_a_failure(monkeypatch):
    own = doctor._own_versions() | {"optax": "0.2.7", "pyarrow": "19.0"}
    monkeypatch.setattr(doctor, "_own_versions", lambda: own)
    failed = [check for check in doctor.examine() if check.status == "fail"]
    assert [check.name for check in failed] == ["optax", "pyarrow"]
    assert "pip install 'optax>=0.2.8'" in failed[0].remedy


def test_torch_that_cannot_compute_on_its_gpu_is_a_failure(tmp_path):
    (tmp_path / "torch.py").write_text("raise RuntimeError('no kernel image for this device')")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    check = doctor.check_torch_devices(lambda: doctor.ask_torch_devices(str(python)), gpu=True)
    assert (check.status, check.found) == ("fail", "RuntimeError: no kernel image for this device")


def test_sidecar_with_another_sam2_is_a_failure():
    failed = [
        check
        for check in doctor.check_sidecar(lambda: SIDECAR | {"sam2": "1.0"})
        if check.status == "fail"
    ]
    assert [check.name for check in failed] == ["sam2"]
    assert "sam2==1.1.0" in failed[0].remedy


def test_two_cudnn_packages_in_the_sidecar_are_a_failure():
    both = {"nvidia-cudnn-cu12": "9.1", "nvidia-cudnn-cu13": "9.2"}
    checks = doctor.check_sidecar(lambda: SIDECAR | both)
    assert [check.name for check in checks if check.status == "fail"] == ["sidecar's cudnn"]
    assert all(check.status == "ok" for check in doctor.check_sidecar(lambda: SIDECAR))


@pytest.mark.parametrize(
    ("trainer", "sidecar"), [(".venv", ".venv-sidecar"), (".venv-3.12", ".venv-sidecar-3.12")]
)
def test_a_trainer_without_torch_finds_the_sidecar_beside_it(
    tmp_path, monkeypatch, trainer, sidecar
):
    monkeypatch.setattr(sys, "prefix", str(tmp_path / trainer))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert interpreter_of_torch() == sys.executable
    python = tmp_path / sidecar / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert interpreter_of_torch() == str(python)
    assert interpreter_of_torch("other") == "other"
    checks = doctor.check_sidecar(lambda: SIDECAR, str(python))
    assert f"in {python}" in checks[0].found
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "torch is here")
    assert interpreter_of_torch() == sys.executable


def test_sidecar_interpreter_that_does_not_run():
    def ask():
        raise subprocess.CalledProcessError(1, "python")

    assert [check.status for check in doctor.check_sidecar(ask)] == ["fail"]


def test_examine_here_gives_a_line_per_check():
    checks = doctor.examine()
    assert {check.status for check in checks} <= {"ok", "warn", "fail"}
    assert len(doctor.report(checks).splitlines()) >= len(checks)
    assert next(check for check in checks if check.name == "devices").found.startswith("8 x")


def test_the_report_ends_with_one_verdict():
    well, warned, failed = (doctor.Check(name, name, "x") for name in ("ok", "warn", "fail"))
    assert doctor.report([well, well]).splitlines()[-2:] == ["", "ready: all 2 checks are ok"]
    assert doctor.verdict([well, warned]) == "ready, but see 1 of 2 checks (warn)"
    assert doctor.verdict([warned, failed]) == "not ready: 1 of 2 checks failed (fail)"

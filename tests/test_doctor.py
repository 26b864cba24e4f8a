"""Each check of the doctor on a machine that is well and on one that is not."""

import subprocess

import pytest

from segr1_jax import doctor


@pytest.mark.parametrize(
    ("check", "status", "word"),
    [
        (doctor.check_python((3, 11)), "ok", "3.11"),
        (doctor.check_python((3, 9)), "fail", "3.9"),
        (doctor.check_package("jax", {"jax": "0.10.2"}), "ok", "0.10.2"),
        (doctor.check_package("jax", {}), "fail", "missing"),
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


def test_sidecar_with_another_sam2_is_a_failure():
    versions = {"python": "3.11.7", "torch": "2.9", "torchvision": "0.24", "sam2": "1.0"}
    failed = [check for check in doctor.check_sidecar(lambda: versions) if check.status == "fail"]
    assert [check.name for check in failed] == ["sam2"]
    assert "sam2==1.1.0" in failed[0].remedy


def test_two_cudnn_packages_in_the_sidecar_are_a_failure():
    versions = {"python": "3.11.7", "torch": "2.9", "torchvision": "0.24", "sam2": "1.1.0"}
    both = {"nvidia-cudnn-cu12": "9.1", "nvidia-cudnn-cu13": "9.2"}
    checks = doctor.check_sidecar(lambda: versions | both)
    assert [check.name for check in checks if check.status == "fail"] == ["sidecar's cudnn"]
    assert all(check.status == "ok" for check in doctor.check_sidecar(lambda: versions))


@pytest.mark.parametrize(
    ("trainer", "sidecar"), [(".venv", ".venv-sidecar"), (".venv-3.12", ".venv-sidecar-3.12")]
)
def test_a_trainer_without_torch_finds_the_sidecar_beside_it(tmp_path, trainer, sidecar):
    assert doctor.find_sidecar({}, tmp_path / trainer) == ""
    python = tmp_path / sidecar / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert doctor.find_sidecar({}, tmp_path / trainer) == str(python)
    assert doctor.find_sidecar({"torch": "2.9"}, tmp_path / trainer) == ""
    versions = {"python": "3.11.7", "torch": "2.9", "torchvision": "0.24", "sam2": "1.1.0"}
    checks = doctor.check_sidecar(lambda: versions, str(python))
    assert f"reward.python={python}" in checks[0].found


def test_sidecar_interpreter_that_does_not_run():
    def ask():
        raise subprocess.CalledProcessError(1, "python")

    assert [check.status for check in doctor.check_sidecar(ask)] == ["fail"]


def test_examine_here_gives_a_line_per_check():
    checks = doctor.examine()
    assert {check.status for check in checks} <= {"ok", "warn", "fail"}
    assert len(doctor.report(checks).splitlines()) >= len(checks)
    assert next(check for check in checks if check.name == "devices").found.startswith("8 x")

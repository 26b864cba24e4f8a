"""Checks of the machine for `segr1 doctor`, each with a remedy."""

import functools
import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from segr1_jax.common.interpreters import interpreter_of_torch
from segr1_jax.common.requirements import required

OPTIONAL = ("eval", "hub", "demo")  # extras whose packages need not be installed
CUDNN = ("nvidia-cudnn-cu12", "nvidia-cudnn-cu13")
SETUP = "bash launch/setup.sh"
ASK_TIMEOUT_S = 120  # an import of torch from a cold network disk takes long
MIN_PYTHON = (3, 11)
LOW_MEMORY_GB, LOW_DISK_GB = 4, 10
ASK_VERSIONS = """
import importlib.metadata, json, sys
names = {dist.metadata["Name"].lower(): dist.version for dist in importlib.metadata.distributions()}
asked = {name: names[name] for name in sys.argv[1:] if name in names}
print(json.dumps({"python": sys.version.split()[0]} | asked))
"""
ASK_TORCH = """
import json, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
for index in range(count):
    torch.ones(2, device=f"cuda:{index}").sum().item()
print(json.dumps([torch.cuda.get_device_name(index) for index in range(count)]))
"""


@dataclass(frozen=True)
class Check:
    """One line of the report.

    `status` is ok, warn or fail; `found` is the state of the machine; `remedy` is empty when ok.
    """

    name: str
    status: str
    found: str
    remedy: str = ""


def examine(sidecar_python: str = "", disk: Path = Path()) -> list[Check]:
    """Return all checks of this interpreter, of the sidecar's interpreter and of the machine.

    The interpreter of the sidecar is `sidecar_python`, or the one that a run uses by default.
    """
    own = _own_versions()
    python = interpreter_of_torch(sidecar_python)
    checks = [check_python(sys.version_info[:2])]
    checks += [check_package(name, own, versions) for name, versions in required().items()]
    for extra in OPTIONAL:
        optional = {name: asked for name, asked in required(extra).items() if name in own}
        checks += [check_package(name, own, asked) for name, asked in optional.items()]
    checks += [check_devices(), check_cudnn(own)]
    checks += check_sidecar(functools.partial(ask_versions, python), python)
    checks += [check_torch_devices(functools.partial(ask_torch_devices, python), has_gpu())]
    return [*checks, check_memory(), check_disk(shutil.disk_usage(disk).free / 1e9)]


def report(checks: list[Check]) -> str:
    """Return one aligned line per check, its remedy, if any, in the next line, and the verdict."""
    lines = []
    for check in checks:
        lines.append(f"{check.status:<5}{check.name:<20}{check.found}")
        if check.remedy:
            lines.append(f"{'':<5}{'':<20}-> {check.remedy}")
    return "\n".join([*lines, "", verdict(checks)])


def verdict(checks: list[Check]) -> str:
    """Return one line: whether this machine is ready, and what is not well."""
    failed, warned = (
        [check.name for check in checks if check.status == status] for status in ("fail", "warn")
    )
    if failed:
        return f"not ready: {len(failed)} of {len(checks)} checks failed ({', '.join(failed)})"
    if warned:
        return f"ready, but see {len(warned)} of {len(checks)} checks ({', '.join(warned)})"
    return f"ready: all {len(checks)} checks are ok"


def check_python(version: tuple[int, int]) -> Check:
    """Check the version of this interpreter."""
    found = ".".join(map(str, version))
    if version < MIN_PYTHON:
        return Check(
            "python",
            "fail",
            found,
            "install Python 3.11, 3.12 or 3.13 and run launch/setup.sh --python 3.12",
        )
    return Check("python", "ok", found)


def check_package(name: str, versions: Mapping[str, str], asked: SpecifierSet) -> Check:
    """Check that the installed `versions` have `name` in a version that `asked` allows."""
    if name not in versions:
        return Check(name, "fail", "missing", SETUP)
    if not asked.contains(versions[name], prereleases=True):
        command = "pip install"
        # An isolated build of sam2 would download torch a second time.
        if name == "sam2":
            command = "SAM2_BUILD_CUDA=0 pip install --no-build-isolation"
        return Check(
            name, "fail", f"{versions[name]}, not {asked}", f"{command} '{name}{asked}', or {SETUP}"
        )
    return Check(name, "ok", versions[name])


def check_devices() -> Check:
    """Check that JAX has a device, and a GPU if the machine has one."""
    try:
        import jax

        devices = jax.devices()
    except (ImportError, RuntimeError) as error:
        return Check(
            "devices",
            "fail",
            " ".join(str(error).split()),
            "set JAX_PLATFORMS=cpu to use the CPU, or reinstall with launch/setup.sh",
        )
    found = f"{len(devices)} x {devices[0].device_kind}"
    if devices[0].platform == "cpu" and has_gpu():
        return Check(
            "devices",
            "warn",
            found,
            "this jax does not support the NVIDIA GPU: run launch/setup.sh cuda13 (or cuda12)",
        )
    return Check("devices", "ok", found)


def has_gpu() -> bool:
    """Return True if this machine has an NVIDIA driver."""
    return shutil.which("nvidia-smi") is not None


def check_cudnn(versions: Mapping[str, str], name: str = "cudnn") -> Check:
    """Check that at most one of nvidia-cudnn-cu12 and nvidia-cudnn-cu13 is installed.

    Both install nvidia/cudnn/lib/libcudnn.so.9, so the later one breaks packages that need the
    earlier one.
    """
    found = [name for name in CUDNN if name in versions]
    if len(found) == 2:
        remedy = (
            "they overwrite each other: remove this environment and run launch/setup.sh cuda12, "
            "which creates one without torch and one for the sidecar"
        )
        return Check(name, "fail", " and ".join(found), remedy)
    return Check(name, "ok", found[0] if found else "none installed")


def check_sidecar(ask: Callable[[], Mapping[str, str]], python: str = "") -> list[Check]:
    """Check the packages of the extra `sidecar`, and cuDNN, in the sidecar's interpreter.

    `ask` returns the versions installed there.
    """
    try:
        versions = ask()
    except (OSError, subprocess.SubprocessError, json.JSONDecodeError) as error:
        return [
            Check(
                "sidecar",
                "fail",
                " ".join(str(error).split()),
                "reward.python (or --python) must name a Python interpreter",
            )
        ]
    asked = required("sidecar").items()
    checks = [check_package(name, versions, specifier) for name, specifier in asked]
    where = "" if python in ("", sys.executable) else f" in {python}"
    checks.append(check_cudnn(versions, "sidecar's cudnn"))
    return [Check("sidecar", "ok", f"Python {versions['python']}{where}"), *checks]


def check_torch_devices(ask: Callable[[], list[str]], gpu: bool) -> Check:
    """Check that the sidecar's torch can compute on every GPU.

    `ask` returns the names of the GPUs on which it computed; `gpu` is True if the machine has one.
    Versions do not show this: it depends on the driver, the build of torch and the kind of GPU.
    """
    name = "sidecar's devices"
    try:
        devices = ask()
    except (OSError, subprocess.SubprocessError, json.JSONDecodeError) as error:
        lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        message = lines[-1] if lines else repr(error)
        return Check(name, "fail", message, f"reinstall torch: {SETUP}")
    if gpu and not devices:
        remedy = (
            "the sidecar's torch does not see the NVIDIA GPU: update the driver, or run "
            "launch/setup.sh cuda13 (or cuda12)"
        )
        return Check(name, "warn", "cpu", remedy)
    return Check(name, "ok", f"{len(devices)} x {devices[0]}" if devices else "cpu")


def ask_versions(python: str) -> dict[str, str]:
    """Return the versions of the sidecar's packages in another interpreter, without imports."""
    return _ask(python, ASK_VERSIONS, *required("sidecar"), *CUDNN)


def ask_torch_devices(python: str) -> list[str]:
    """Return the names of the GPUs on which torch in another interpreter added two numbers."""
    return _ask(python, ASK_TORCH)


def _ask(python: str, program: str, *arguments: str) -> Any:
    """Return the JSON that a program prints in another interpreter."""
    command = [python, "-c", program, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=ASK_TIMEOUT_S
    )
    return json.loads(done.stdout)


def check_memory() -> Check:
    """Check the memory that is available on this host."""
    # MemAvailable includes file caches, which the kernel frees on demand; MemFree does not.
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free_gb = int(fields["MemAvailable"].split()[0]) * 1024 / 1e9
    if free_gb < LOW_MEMORY_GB:
        return Check(
            "memory",
            "warn",
            f"{free_gb:.1f} GB free",
            f"the quickstart needs about {LOW_MEMORY_GB} GB: close other programs",
        )
    return Check("memory", "ok", f"{free_gb:.1f} GB free")


def check_disk(free_gb: float) -> Check:
    """Check the free space of the disk of the working directory."""
    if free_gb < LOW_DISK_GB:
        return Check(
            "disk",
            "warn",
            f"{free_gb:.1f} GB free",
            "checkpoints need room: clear space or set run_dir on another disk",
        )
    return Check("disk", "ok", f"{free_gb:.1f} GB free")


def _own_versions() -> dict[str, str]:
    return {
        canonicalize_name(dist.metadata["Name"]): dist.version
        for dist in importlib.metadata.distributions()
    }

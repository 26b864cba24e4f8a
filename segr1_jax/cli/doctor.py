"""`segr1 doctor`: is this machine ready, and if not, what to do."""

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

from segr1_jax.common.requirements import required

OPTIONAL = ("eval", "demo")  # extras whose packages may be missing
CUDNN = ("nvidia-cudnn-cu12", "nvidia-cudnn-cu13")
SETUP = "bash launch/setup.sh cpu (or cuda12, cuda13, tpu)"
ASK_TIMEOUT_S = 120  # importing torch from a cold network disk
MIN_PYTHON = (3, 11)
LOW_MEMORY_GB, LOW_DISK_GB = 4, 10
ASK_VERSIONS = """
import importlib.metadata, json, sys
names = {dist.metadata["Name"].lower(): dist.version for dist in importlib.metadata.distributions()}
print(json.dumps({"python": sys.version.split()[0]} | {name: names[name] for name in sys.argv[1:] if name in names}))
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
    """One line of the report. `status` is ok, warn or fail; `remedy` is empty when ok."""

    name: str
    status: str
    found: str
    remedy: str = ""


def examine(sidecar_python: str = "", disk: Path = Path()) -> list[Check]:
    """All checks of this interpreter, of the sidecar's (`sidecar_python`, or `find_sidecar`'s) and of the machine."""
    own = _own_versions()
    found = sidecar_python or find_sidecar(own, Path(sys.prefix)) or sys.executable
    checks = [check_python(sys.version_info[:2])]
    checks += [check_package(name, own, versions) for name, versions in required().items()]
    for extra in OPTIONAL:
        optional = {name: asked for name, asked in required(extra).items() if name in own}
        checks += [check_package(name, own, asked) for name, asked in optional.items()]
    checks += [check_devices(), check_cudnn(own)]
    checks += check_sidecar(functools.partial(ask_versions, found), found)
    checks += [check_torch_devices(functools.partial(ask_torch_devices, found), has_gpu())]
    return [*checks, check_memory(), check_disk(shutil.disk_usage(disk).free / 1e9)]


def find_sidecar(own: Mapping[str, str], prefix: Path) -> str:
    """The interpreter that `launch/setup.sh cuda12` makes beside an environment without torch.

    Empty where this environment has torch, or where there is no other.
    """
    beside = prefix.parent / prefix.name.replace(".venv", ".venv-sidecar", 1) / "bin" / "python"
    wanted = "torch" not in own and beside != prefix / "bin" / "python"
    return str(beside) if wanted and beside.is_file() else ""


def report(checks: list[Check]) -> str:
    """One aligned line per check, the remedy below where there is one."""
    lines = []
    for check in checks:
        lines.append(f"{check.status:<5}{check.name:<20}{check.found}")
        if check.remedy:
            lines.append(f"{'':<5}{'':<20}-> {check.remedy}")
    return "\n".join(lines)


def check_python(version: tuple[int, int]) -> Check:
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
    """`name` is among the installed `versions`, in one of the versions that `asked` allows."""
    if name not in versions:
        return Check(name, "fail", "missing", SETUP)
    if not asked.contains(versions[name], prereleases=True):
        command = "pip install"
        if name == "sam2":  # its isolated build fetches torch again
            command = "SAM2_BUILD_CUDA=0 pip install --no-build-isolation"
        return Check(
            name, "fail", f"{versions[name]}, not {asked}", f"{command} '{name}{asked}', or {SETUP}"
        )
    return Check(name, "ok", versions[name])


def check_devices() -> Check:
    try:
        import jax

        devices = jax.devices()
    except (ImportError, RuntimeError) as error:
        return Check(
            "devices",
            "fail",
            " ".join(str(error).split()),
            "JAX_PLATFORMS=cpu runs on the CPU; else reinstall with launch/setup.sh",
        )
    found = f"{len(devices)} x {devices[0].device_kind}"
    if devices[0].platform == "cpu" and has_gpu():
        return Check(
            "devices",
            "warn",
            found,
            "there is an NVIDIA GPU, but this jax is CPU-only: launch/setup.sh cuda13 (or cuda12)",
        )
    return Check("devices", "ok", found)


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA driver."""
    return shutil.which("nvidia-smi") is not None


def check_cudnn(versions: Mapping[str, str], name: str = "cudnn") -> Check:
    """nvidia-cudnn-cu12 and -cu13 install the same nvidia/cudnn/lib/libcudnn.so.9: the later one breaks the earlier one's user."""
    found = [name for name in CUDNN if name in versions]
    if len(found) == 2:
        remedy = (
            "they overwrite each other: remove this environment and run launch/setup.sh cuda12, "
            "which makes one without torch and one for the sidecar"
        )
        return Check(name, "fail", " and ".join(found), remedy)
    return Check(name, "ok", found[0] if found else "none installed")


def check_sidecar(ask: Callable[[], Mapping[str, str]], python: str = "") -> list[Check]:
    """The extra `sidecar` and cuDNN in the sidecar's interpreter; `ask` returns its versions."""
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
    where = "" if python in ("", sys.executable) else f": pass reward.python={python}"
    checks.append(check_cudnn(versions, "sidecar's cudnn"))
    return [Check("sidecar", "ok", f"Python {versions['python']}{where}"), *checks]


def check_torch_devices(ask: Callable[[], list[str]], gpu: bool) -> Check:
    """The sidecar's torch computes on every GPU; `ask` returns their names, `gpu` says one is here.

    The driver, the build of torch and the GPU's age decide that, and no version shows it.
    """
    name = "sidecar's devices"
    try:
        devices = ask()
    except (OSError, subprocess.SubprocessError, json.JSONDecodeError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        return Check(
            name, "fail", said[-1] if said else repr(error), f"install torch anew: {SETUP}"
        )
    if gpu and not devices:
        remedy = "there is an NVIDIA GPU that the sidecar's torch does not see: update the driver, "
        return Check(name, "warn", "cpu", f"{remedy}or launch/setup.sh cuda13 (or cuda12)")
    return Check(name, "ok", f"{len(devices)} x {devices[0]}" if devices else "cpu")


def ask_versions(python: str) -> dict[str, str]:
    """Versions of the sidecar's packages as another interpreter sees them, without importing one."""
    return _ask(python, ASK_VERSIONS, *required("sidecar"), *CUDNN)


def ask_torch_devices(python: str) -> list[str]:
    """Names of the GPUs on which another interpreter's torch has just added two numbers."""
    return _ask(python, ASK_TORCH)


def _ask(python: str, program: str, *arguments: str) -> Any:
    """What a program prints as JSON under another interpreter."""
    command = [python, "-c", program, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=ASK_TIMEOUT_S
    )
    return json.loads(done.stdout)


def check_memory() -> Check:
    # Not the kernel's free pages: file caches are given up on demand.
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

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

SAM2_VERSION = "1.1.0"
TRAINER_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "transformers",
    "tokenizers",
)
SIDECAR_PACKAGES = (
    "torch",
    "torchvision",
    "sam2",
    "numpy",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
)
MIN_PYTHON = (3, 11)
LOW_MEMORY_GB, LOW_DISK_GB = 4, 10
ASK_VERSIONS = """
import importlib.metadata, json, sys
names = {dist.metadata["Name"].lower(): dist.version for dist in importlib.metadata.distributions()}
print(json.dumps({"python": sys.version.split()[0]} | {name: names[name] for name in sys.argv[1:] if name in names}))
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
    checks += [check_package(name, own) for name in TRAINER_PACKAGES]
    checks += [check_devices(), check_cudnn(own)]
    checks += check_sidecar(functools.partial(ask_versions, found), found)
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


def check_package(name: str, versions: Mapping[str, str]) -> Check:
    if name not in versions:
        return Check(name, "fail", "missing", "bash launch/setup.sh cpu (or cuda12, cuda13, tpu)")
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
    if devices[0].platform == "cpu" and shutil.which("nvidia-smi"):
        return Check(
            "devices",
            "warn",
            found,
            "there is an NVIDIA GPU, but this jax is CPU-only: launch/setup.sh cuda13 (or cuda12)",
        )
    return Check("devices", "ok", found)


def check_cudnn(versions: Mapping[str, str], name: str = "cudnn") -> Check:
    """nvidia-cudnn-cu12 and -cu13 install the same nvidia/cudnn/lib/libcudnn.so.9: the later one breaks the earlier one's user."""
    found = [name for name in ("nvidia-cudnn-cu12", "nvidia-cudnn-cu13") if name in versions]
    if len(found) == 2:
        remedy = (
            "they overwrite each other: remove this environment and run launch/setup.sh cuda12, "
            "which makes one without torch and one for the sidecar"
        )
        return Check(name, "fail", " and ".join(found), remedy)
    return Check(name, "ok", found[0] if found else "none installed")


def check_sidecar(ask: Callable[[], Mapping[str, str]], python: str = "") -> list[Check]:
    """torch, the pinned sam2 and cuDNN in the sidecar's interpreter; `ask` returns its package versions."""
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
    checks = [check_package(name, versions) for name in ("torch", "torchvision", "sam2")]
    if versions.get("sam2", SAM2_VERSION) != SAM2_VERSION:
        checks[-1] = Check(
            "sam2",
            "fail",
            versions["sam2"],
            f"SAM2_BUILD_CUDA=0 pip install --no-build-isolation sam2=={SAM2_VERSION}",
        )
    where = "" if python in ("", sys.executable) else f": pass reward.python={python}"
    checks.append(check_cudnn(versions, "sidecar's cudnn"))
    return [Check("sidecar", "ok", f"Python {versions['python']}{where}"), *checks]


def ask_versions(python: str) -> dict[str, str]:
    """Versions of the sidecar's packages as another interpreter sees them, without importing one."""
    command = [python, "-c", ASK_VERSIONS, *SIDECAR_PACKAGES]
    return json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    )


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
        dist.metadata["Name"].lower(): dist.version for dist in importlib.metadata.distributions()
    }

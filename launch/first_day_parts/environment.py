"""Check versions with `segr1 doctor`, and list the devices and their driver."""

import shutil
import subprocess

import jax
from first_day_parts.request import Request, Row, verdict

from segr1_jax.cli.doctor import examine

GPU_QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")


def measure(request: Request) -> list[Row]:
    """Return a row of versions and a row of hardware."""
    request.prepare_jax()
    checks = examine(request.config.reward.python)
    faults = [f"{check.name}: {check.found}" for check in checks if check.status == "fail"]
    versions = ", ".join(f"{check.name} {check.found}" for check in checks)
    return [
        Row("environment", "no `fail` in `segr1 doctor`", versions, verdict(not faults)),
        Row("device", "named by JAX and its driver", hardware(), verdict(True)),
    ]


def hardware() -> str:
    """Return the devices of this process, their memory for JAX, and their driver."""
    devices = jax.devices()
    limit = (devices[0].memory_stats() or {}).get("bytes_limit")
    parts = [f"{len(devices)} x {devices[0].device_kind}"]
    parts += [f"{limit / 1e9:.1f} GB each for JAX"] if limit else []
    if shutil.which("nvidia-smi"):
        output = subprocess.run(GPU_QUERY, capture_output=True, text=True, check=True).stdout
        parts.append(f"driver: {'; '.join(output.splitlines())}")
    return ", ".join(parts)

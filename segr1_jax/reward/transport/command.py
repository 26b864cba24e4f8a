"""Command line and environment of a sidecar process."""

import importlib.util
import json
import os
import sys
from pathlib import Path

from segr1_jax.common.interpreters import interpreter_of_torch
from segr1_jax.reward.config import RewardConfig

ASSETS = Path(__file__).parents[1] / "assets"


def model_settings(config: RewardConfig) -> dict[str, str | bool]:
    """Return the settings of the model of the first sidecar.

    The nano SAM2 is always built without post-processing: only its single mask is trained.

    Raises:
        ValueError: the configuration names a repository, whose files must be found before.
    """
    if config.sam2:
        raise ValueError(f"reward.sam2={config.sam2} without runtime.hub_files.with_local_files")
    nano = not config.sam2_config
    nano_weights = str(ASSETS / "sam2_nano.safetensors") if nano else ""
    return {
        "config": str(ASSETS / "sam2_nano.yaml") if nano else config.sam2_config,
        "checkpoint": config.sam2_checkpoint or nano_weights,
        "postprocessing": config.postprocessing and not nano,
        "device": config.devices[0],
        "dtype": config.dtype,
    }


def settings_json(config: RewardConfig, socket_fd: int, region_fd: int) -> str:
    """Return the settings of a sidecar as JSON; `sidecar.server.Settings` reads them."""
    return json.dumps(
        model_settings(config)
        | {
            "socket_fd": socket_fd,
            "region_fd": region_fd,
            "parent_pid": os.getpid(),
            "threads": config.threads,
            "memory_fraction": config.gpu_memory,
            "decode_batch": config.decode_batch,
            "max_side": config.max_side,
            "cache_bytes": config.cache_mb << 20,
            "host_cache_bytes": 0 if config.device == "cpu" else config.host_cache_mb << 20,
            "cache_dir": config.cache_dir,
            "cache_dir_bytes": int(config.cache_dir_gb * 1e9),
        }
    )


def command(config: RewardConfig, socket_fd: int, region_fd: int) -> list[str]:
    """Return the command line of a sidecar that inherits the two descriptors."""
    return [
        interpreter_of_torch(config.python),
        "-m",
        "segr1_jax.reward.sidecar.server",
        settings_json(config, socket_fd, region_fd),
    ]


def environment(config: RewardConfig) -> dict[str, str]:
    """Return the environment of a sidecar: that of the trainer, with this package importable.

    A different interpreter must have the package installed or on PYTHONPATH.
    """
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": str(config.threads),
        # cuBLAS is deterministic only with a fixed workspace.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    if interpreter_of_torch(config.python) == sys.executable:
        package = Path(importlib.util.find_spec("segr1_jax").origin).parents[1]
        paths = (str(package), os.environ.get("PYTHONPATH"))
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return variables

"""Setup before JAX starts: determinism, compilation cache, and the other processes of the run."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from segr1_jax.errors import Preempted, UserError

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "segr1_jax" / "xla"
FAILED = 70  # exit status of a process whose failure ends the others (EX_SOFTWARE)
REPRODUCIBLE = {"xla_gpu_deterministic_ops": True}
# XLA does not autotune then, and Triton's tiles would be guesses: cuBLAS saves .8 ms of the 6.1 of
# a decoded token on an H100 (launch/RESULTS.md).
UNTUNED = {"xla_gpu_enable_triton_gemm": False}
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def prepare_runtime(
    *, deterministic: bool, memory_share: float | None = None, compile_cache: str = ""
) -> None:
    """Configure JAX. Call it once, before any other use of JAX.

    Args:
        deterministic: request reproducible operations from XLA (REPRODUCIBLE, UNTUNED).
        memory_share: share of each GPU's memory for JAX; None uses JAX's default.
        compile_cache: folder of compiled programs; empty means CACHE. With several processes only
            the first one writes to it, so hosts that should use its programs must share it.
    """
    if memory_share is not None:
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{memory_share:.3f}")
    if deterministic:
        # XLA takes the last of two values: the user may choose other kernels.
        parts = (_flags(UNTUNED), os.environ.get("XLA_FLAGS", ""), _flags(REPRODUCIBLE))
        os.environ["XLA_FLAGS"] = " ".join(filter(None, parts))
    # JAX_COMPILATION_CACHE_DIR takes precedence.
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", compile_cache or str(CACHE))
    join_processes()


def _flags(options: Mapping[str, bool]) -> str:
    return " ".join(f"--{name}={str(value).lower()}" for name, value in options.items())


def join_processes() -> None:
    """Join the other processes of the run if the launcher set VARIABLES.

    With the address `auto`, JAX detects all three itself (TPU pods, SLURM, MPI).

    Raises:
        UserError: some but not all of the variables are set.
    """
    values = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    if not values:
        return
    if values.get("JAX_COORDINATOR_ADDRESS") == "auto":
        return jax.distributed.initialize()
    if len(values) < len(VARIABLES):
        missing = ", ".join(name for name in VARIABLES if name not in values)
        raise UserError(
            "environment",
            expected=f"all of {', '.join(VARIABLES)}",
            got=f"no {missing}",
            remedy="set them, or none of them",
        )
    address, count, index = values.values()
    jax.distributed.initialize(address, int(count), int(index))


@contextlib.contextmanager
def end_together() -> Iterator[None]:
    """End this process at once, with its error, if it fails in a run of several processes.

    The others then lose the connection and end too. An orderly exit would wait for the others,
    which wait for the collectives of this process. Use it around a whole run.
    """
    try:
        yield
    except Preempted:
        # All processes have agreed to stop.
        raise
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        print(
            f"segr1: process {jax.process_index()} of {jax.process_count()} failed: {error}",
            file=sys.stderr,
            flush=True,
        )
        traceback.print_exc()
        os._exit(FAILED)


def is_first() -> bool:
    """Return True in the first process, which writes the shared files."""
    return jax.process_index() == 0


def text_of_first(make: Callable[[], str]) -> str:
    """Return, in every process, the text that `make` returns in the first one.

    `make` runs in the first process only.
    """
    if jax.process_count() == 1:
        return make()
    # A broadcast needs equal shapes in all processes, so the size is sent first.
    text = np.frombuffer(make().encode(), np.uint8) if is_first() else np.zeros(0, np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    padded = np.resize(text, size) if is_first() else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded), np.uint8).tobytes().decode()


def wait_for_all(name: str) -> None:
    """Return once every process has called this with the same name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)

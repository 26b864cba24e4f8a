"""Several processes of one run, through JAX's own distributed runtime."""

import os

import jax
from jax.experimental import multihost_utils

from segr1_jax.errors import UserError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join_processes() -> None:
    """Join the other processes if the launcher set VARIABLES; call before any other use of JAX.

    Raises:
        UserError: some but not all of them are set.
    """
    found = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    if not found:
        return
    if len(found) < len(VARIABLES):
        missing = ", ".join(name for name in VARIABLES if name not in found)
        raise UserError("environment", expected=f"all of {', '.join(VARIABLES)}", got=f"no {missing}", remedy="set them, or none of them")
    address, count, index = found.values()
    jax.distributed.initialize(address, int(count), int(index))


def is_first() -> bool:
    """True in the one process that writes what all share."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Return once every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)

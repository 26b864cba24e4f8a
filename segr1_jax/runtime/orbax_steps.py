"""Orbax managers of the steps of a run, with errors that name the directory and the remedy."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.options import AsyncOptions

from segr1_jax.errors import UserError
from segr1_jax.runtime.checksums import write_checksums


def latest_step(directory: epath.PathLike) -> int | None:
    """Return the newest finished checkpoint under `directory`, or None if there is none."""
    directory = epath.Path(directory)
    return max(ocp.utils.checkpoint_steps(directory), default=None) if directory.is_dir() else None


def last_good_step(directory: epath.PathLike) -> str:
    """Return the step at which a stopped run continues, in words for a message."""
    step = latest_step(directory)
    if step is None:
        return "no step is saved yet"
    return f"step {step} is complete, and the same command continues from it"


def step_manager(directory: epath.PathLike, policy: Any, **options: Any) -> ocp.CheckpointManager:
    """Return an asynchronous manager of the steps in `directory`, with checksums in each step.

    `policy` is one of Orbax's preservation policies, which select the steps to keep.
    """
    directory = epath.Path(directory).resolve()
    # Orbax calls this once all items of a step are written and before it commits the step.
    finish = AsyncOptions(post_finalization_callback=lambda: _add_checksums(directory))
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        create=True,
        enable_async_checkpointing=True,
        async_options=finish,
        **options,
    )
    return ocp.CheckpointManager(directory, options=options)


def _add_checksums(directory: epath.Path) -> None:
    """Write the checksums of the step under `directory` that is not committed yet."""
    if jax.process_index() == 0:
        for partial in ocp.utils.tmp_checkpoints(directory):
            write_checksums(partial.get())


@contextlib.contextmanager
def explaining_failed_save(manager: ocp.CheckpointManager) -> Iterator[None]:
    """Raise UserError, which names the last complete step, for an error while a step is saved."""
    try:
        yield
    except Exception as error:
        raise UserError(
            str(manager.directory),
            expected="a checkpoint to be written",
            got=f"{type(error).__name__}: {str(error)[:500]}",
            remedy=f"check free space and permissions there; {last_good_step(manager.directory)}",
        ) from error


@contextlib.contextmanager
def explaining_failed_restore(step: epath.Path) -> Iterator[None]:
    """Raise UserError, which names `step`, for an error while a step is restored."""
    try:
        yield
    except jax.errors.JaxRuntimeError:
        # An error of the device, such as a lack of memory, says nothing about the checkpoint.
        raise
    except Exception as error:
        # Orbax raises errors of the storage as bare Exceptions.
        raise UserError(
            str(step),
            expected="a complete checkpoint that matches this run",
            got=f"{type(error).__name__}: {str(error)[:300]}",
            remedy="copy it again, or delete it to use the previous one",
        ) from error

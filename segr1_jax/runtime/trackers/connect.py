"""The trackers of a run, as `log.to` names them."""

import functools
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from segr1_jax.common.files import write_atomically
from segr1_jax.config.loading import dump_config
from segr1_jax.config.log import LogConfig
from segr1_jax.config.schema import RunConfig
from segr1_jax.runtime.run_directory import RunDir
from segr1_jax.runtime.trackers.background import BackgroundTracker
from segr1_jax.runtime.trackers.tensorboard_tracker import TensorBoardTracker
from segr1_jax.runtime.trackers.tracker import (
    Row,
    RunIdentity,
    Tracker,
    hyperparameters,
    without_credentials,
)
from segr1_jax.runtime.trackers.trackio_tracker import TrackioTracker
from segr1_jax.runtime.trackers.wandb_tracker import WandbTracker, require_login

# Trackers of other projects. Their errors must not end a run, so each works in a thread.
THIRD_PARTY: dict[str, Callable[[RunIdentity], Tracker]] = {
    "wandb": WandbTracker,
    "trackio": TrackioTracker,
}


def require_credentials(log: LogConfig) -> None:
    """Raise UserError unless the trackers that need credentials have them."""
    if "wandb" in log.to:
        require_login()


def open_trackers(
    run: RunDir, config: RunConfig, start_step: int, rows: Sequence[Row], *, is_new: bool
) -> list[Tracker]:
    """Open the trackers of `config.log.to`.

    Args:
        run: the run directory; the trackers' own files lie in it.
        config: the configuration that the trackers show.
        start_step: the restored step.
        rows: those of metrics.jsonl up to `start_step`; a tracker is given what it lacks of them.
        is_new: True for a run that has logged nothing yet, which becomes a new run of each tracker.
    """
    trackers: list[Tracker] = []
    if "tensorboard" in config.log.to:
        text = without_credentials(dump_config(config))
        shown = hyperparameters(config)
        trackers.append(TensorBoardTracker(run.tensorboard, start_step, text, shown, rows))
    names = [name for name in THIRD_PARTY if name in config.log.to]
    if is_new:
        shutil.rmtree(run.trackers, ignore_errors=True)
    if names:
        run.trackers.mkdir(exist_ok=True)
    return trackers + [_third_party(name, run, config, rows) for name in names]


def _third_party(
    name: str, run: RunDir, config: RunConfig, rows: Sequence[Row]
) -> BackgroundTracker:
    identity = RunIdentity(
        name=run.path.resolve().name,
        id=_id(run.trackers / "id"),
        folder=str(run.path),
        project=config.log.project,
        hyperparameters=hyperparameters(config),
    )
    connect = functools.partial(THIRD_PARTY[name], identity)
    mark = run.trackers / f"{name}.json"
    return BackgroundTracker(name, connect, mark, rows, run.incidents)


def _id(path: Path) -> str:
    if not path.is_file():
        write_atomically(path, secrets.token_hex(4))
    return path.read_text()

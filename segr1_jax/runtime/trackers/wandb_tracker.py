"""wandb as a tracker.

Each row is one history row with its step as the figure `step`, which is the x axis. wandb's own
step counts rows: it would drop the evaluation of a step whose figures are written already.
"""

import secrets
import sys
from types import ModuleType

from segr1_jax.common.optional_packages import optional_package
from segr1_jax.errors import UserError
from segr1_jax.runtime.trackers.tracker import Row, RunIdentity, one_line

STEP = "step"
INIT_TIMEOUT_S = 60  # wait for the server before the run is recorded offline
FINISH_TIMEOUT_S = 30  # wait for uploads at the end; the rest stays on the disk
LOCAL_MODES = ("offline", "dryrun", "disabled")


class WandbTracker:
    """A run of wandb, which continues at a resume.

    Without a connection at the start, and with WANDB_MODE=offline, the rows are recorded in wandb/
    of the run directory, for `wandb sync`. Such a recording has an id of its own in the group of
    the run: wandb would overwrite the rows of an earlier recording of the same id.
    """

    def __init__(self, identity: RunIdentity):
        self._wandb = wandb = optional_package("wandb", "wandb")
        try:
            self._run = _init(wandb, identity, offline=_is_local(wandb))
        except wandb.errors.AuthenticationError:
            raise
        except (wandb.errors.CommError, TimeoutError) as error:
            self._run = _init(wandb, identity, offline=True)
            print(
                f"wandb: no connection ({one_line(error)}); recorded offline: upload with "
                f"`wandb sync {self._run.settings.sync_dir}`",
                file=sys.stderr,
            )
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)

    def write(self, row: Row) -> None:
        """Log a row; wandb sends it in the background."""
        images = {
            picture.name: self._wandb.Image(picture.pixels_HW3, caption=picture.text)
            for picture in row.pictures
        }
        self._run.log({STEP: row.step, **row.figures, **images})

    def close(self, *, failed: bool) -> None:
        """Finish the run in wandb."""
        self._run.finish(exit_code=int(failed))


def require_login() -> None:
    """Raise UserError unless wandb has credentials or is set to record locally.

    Nothing is sent, and nothing is asked on the terminal.
    """
    wandb = optional_package("wandb", "wandb")
    try:
        if _is_local(wandb) or wandb.login(prompt=False, verify=False):
            return
        got = "none"
    # Settings that wandb refuses (a key of another form, an unknown WANDB_MODE) are ValueErrors.
    except (wandb.errors.AuthenticationError, wandb.errors.UsageError, ValueError) as error:
        got = one_line(error)
    raise UserError(
        "log.to",
        expected="credentials of wandb",
        got=got,
        remedy="run `wandb login`, set WANDB_API_KEY, or record locally with WANDB_MODE=offline",
    )


def _is_local(wandb: ModuleType) -> bool:
    return wandb.setup().settings.mode in LOCAL_MODES


def _init(wandb: ModuleType, identity: RunIdentity, *, offline: bool):
    return wandb.init(
        project=identity.project,
        name=identity.name,
        group=identity.id,
        id=f"{identity.id}-{secrets.token_hex(2)}" if offline else identity.id,
        resume=None if offline else "allow",
        mode="offline" if offline and not _is_local(wandb) else None,
        dir=identity.folder,
        config=dict(identity.hyperparameters),
        # A resumed run may change fields that do not affect its results.
        allow_val_change=True,
        settings=wandb.Settings(
            init_timeout=INIT_TIMEOUT_S,
            finish_timeout=FINISH_TIMEOUT_S,
            # The progress bar belongs to the terminal alone.
            console="off",
            save_code=False,
        ),
    )

"""trackio as a tracker.

Rows are stored locally by trackio, or in a Space (TRACKIO_SPACE_ID). trackio sends them from its
own thread and keeps locally what a Space does not accept.
"""

from segr1_jax.common.optional_packages import optional_package
from segr1_jax.runtime.trackers.tracker import Row, RunIdentity


class TrackioTracker:
    """A trackio run, which is continued when training resumes.

    trackio finds a run by its name, so the name contains the id: run directories with the same
    name are different runs.
    """

    def __init__(self, identity: RunIdentity):
        self._trackio = optional_package("trackio", "trackio")
        self._run = self._trackio.init(
            project=identity.project,
            name=f"{identity.name}-{identity.id}",
            config=dict(identity.hyperparameters),
            resume="allow",
            embed=False,
        )

    def write(self, row: Row) -> None:
        """Log a row at its step."""
        images = {
            picture.name: self._trackio.Image(picture.pixels_HW3, caption=picture.text)
            for picture in row.pictures
        }
        self._run.log({**row.figures, **images}, step=row.step)

    def close(self, *, failed: bool) -> None:
        """Flush the rows."""
        self._run.finish()

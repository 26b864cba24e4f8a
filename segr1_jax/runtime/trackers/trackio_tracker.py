"""trackio as a tracker.

Rows are in trackio's local store, or in a Space (TRACKIO_SPACE_ID). It sends them in a thread of
its own and keeps locally what a Space does not take.
"""

from segr1_jax.common.optional_packages import optional_package
from segr1_jax.runtime.trackers.tracker import Row, RunIdentity


class TrackioTracker:
    """A run of trackio, which continues at a resume.

    trackio finds a run by its name, so the name holds the id: run directories of the same name
    are different runs.
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

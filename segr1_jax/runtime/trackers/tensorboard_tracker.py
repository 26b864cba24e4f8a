"""TensorBoard as a tracker: event files in tb/ of the run directory."""

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from segr1_jax.runtime.tensorboard_files import cut_events
from segr1_jax.runtime.trackers.tracker import Row

# Figures that the hparams tab shows beside the configuration.
COMPARED = ("eval/iou", "eval/s_measure", "eval/format", "train/reward")


class TensorBoardTracker:
    """Writer of event files. Each row is flushed, so a full disk raises OSError here.

    tensorboardX's own writer has a thread that ends at that error and then blocks its caller once
    its queue is full.

    Records after `start_step` are deleted, as the lines of metrics.jsonl are. `lines` are the rows
    of that file; those that tb/ lacks, where an earlier part of the run did not write it, are
    written without their pictures.
    """

    def __init__(
        self,
        folder: Path,
        start_step: int,
        config_text: str,
        hyperparameters: Mapping[str, Any],
        lines: Iterable[Row],
    ):
        # Imported here because it is slow, and commands that only read metrics do not need it.
        from tensorboardX.event_file_writer import EventsWriter

        left = cut_events(folder, start_step)
        folder.mkdir(exist_ok=True)
        self._events = EventsWriter(str(folder / "events"), f".from_step_{start_step}")
        if left is None:
            self._describe(config_text, hyperparameters)
        for row in lines:
            if left is None or row.step > left:
                self.write(row)

    def write(self, row: Row) -> None:
        """Write the figures, and each picture with its text."""
        from tensorboardX.summary import image, scalar, text

        summaries = [scalar(tag, value) for tag, value in row.figures.items()]
        for picture in row.pictures:
            summaries.append(image(picture.name, picture.pixels_HW3, dataformats="HWC"))
            summaries.append(text(f"{picture.name}/answer", _verbatim(picture.text)))
        self._write(row.step, summaries)

    def close(self, *, failed: bool) -> None:
        """Close the event file."""
        self._events.close()

    def _describe(self, config_text: str, hyperparameters: Mapping[str, Any]) -> None:
        """Write the configuration as text, and as hparams for TensorBoard's table of runs."""
        from tensorboardX.summary import hparams, text

        plain = {
            key: json.dumps(value) if isinstance(value, list) else value
            for key, value in hyperparameters.items()
        }
        summaries = [text("config", _verbatim(config_text)), *hparams(plain, COMPARED)]
        self._write(0, summaries)

    def _write(self, step: int, summaries: Iterable[Any]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [value for summary in summaries for value in summary.value]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        self._events.write_event(event)
        self._events.flush()


def _verbatim(text: str) -> str:
    """Return Markdown that shows `text` as it is: an indented block, which nothing inside ends."""
    return "\n".join(f"    {line}" for line in text.splitlines())

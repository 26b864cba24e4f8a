"""What a tracker receives: rows of figures and pictures of held-out samples.

A tracker shows a run while it trains: TensorBoard, wandb, trackio. metrics.jsonl holds every figure
that a tracker shows, and is what the code itself reads.

Shape legend: H W picture in pixels.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from segr1_jax.config.loading import flatten
from segr1_jax.config.schema import RunConfig

STEP_FIGURES = "train"  # group of the figures of a step, whose names have no group of their own
EVALUATION = "eval/"
USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")  # a URL's `user:password@`


class Picture(NamedTuple):
    """An RGB picture with its text, under one name through the whole run."""

    name: str
    pixels_HW3: UInt8[np.ndarray, "H W 3"]
    text: str


class Row(NamedTuple):
    """The figures of a step or of an evaluation, by their tags, and the pictures beside them."""

    step: int
    figures: Mapping[str, int | float]
    pictures: Sequence[Picture] = ()

    @property
    def place(self) -> tuple[int, bool]:
        """The order of rows: by step, the evaluation of a step after the step itself."""
        return self.step, any(tag.startswith(EVALUATION) for tag in self.figures)


@runtime_checkable
class Tracker(Protocol):
    """A place where a run is shown. Any exception of a method ends the tracker, not the run."""

    def write(self, row: Row) -> None:
        """Show a row. Rows come in the order of `Row.place`."""

    def close(self, *, failed: bool) -> None:
        """Finish; `failed` tells whether the run ended by an error or a signal."""


@dataclass(frozen=True)
class RunIdentity:
    """What a tracker needs to know of a run.

    Attributes:
        name: the name of the run directory.
        id: 8 hex digits, the same for every resume.
        folder: the run directory.
        project: the project of the run in the tracker.
        hyperparameters: the value of each configuration field by its dotted key.
    """

    name: str
    id: str
    folder: str
    project: str
    hyperparameters: Mapping[str, Any]


def grouped(figures: Mapping[str, int | float]) -> dict[str, int | float]:
    """Return the figures by tag: `reward` becomes `train/reward`, `time/step_s` stays."""
    return {
        name if "/" in name else f"{STEP_FIGURES}/{name}": value for name, value in figures.items()
    }


def rows_of(lines: Iterable[Mapping[str, int | float]]) -> list[Row]:
    """Return the rows of lines of metrics.jsonl."""
    return [
        Row(line["step"], grouped({name: value for name, value in line.items() if name != "step"}))
        for line in lines
    ]


def hyperparameters(config: RunConfig) -> dict[str, Any]:
    """Return the value of each configuration field, without the credentials of a URL."""
    return {
        key: without_credentials(value) if isinstance(value, str) else value
        for key, value in flatten(config).items()
    }


def one_line(error: BaseException) -> str:
    """Return the message of an error without its line breaks."""
    return " ".join(str(error).split())


def without_credentials(text: str) -> str:
    """Return the text with `user:password@` removed from URLs."""
    return USER_INFO.sub("", text)

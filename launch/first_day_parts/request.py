"""Shared code of the parts of first_day: the request, the rows of the result, and the photos."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from segr1_jax.config.schema import RunConfig
from segr1_jax.data.file_entries import Entry, FileSource
from segr1_jax.data.sources import limited, open_source
from segr1_jax.types import Answer, Example, Frame

OK, FAILED, NOT_COMPARED = "ok", "failed", "not compared"
PHOTOS = 4


class Row(NamedTuple):
    """One line of the result."""

    part: str
    expected: str
    measured: str
    verdict: str


@dataclasses.dataclass(frozen=True)
class Request:
    """Options of first_day.

    `config` is loaded from `file` with `overrides`; `run` is the run directory of the two steps.
    """

    config: RunConfig
    file: Path
    overrides: list[str]
    photos: list[Path]
    run: Path

    def prepare_jax(self) -> None:
        """Prepare JAX for the configuration."""
        prepare_jax(self.config)

    def examples(self) -> list[Example]:
        """Return the photos without sentence or mask, so that all prompts have the same length."""
        source = limited(open_source(self.config.eval_data), PHOTOS)
        if self.photos:
            source = FileSource([Entry(path.stem, path, None) for path in self.photos])
        return [
            Example(index, example.name, example.image, mask=None)
            for index, example in enumerate(source[place] for place in range(len(source)))
        ]


def prepare_jax(config: RunConfig) -> None:
    """Make the settings that must precede the start of JAX, as the commands of `segr1` do."""
    from segr1_jax.reward.transport.gpus import placed_here
    from segr1_jax.runtime.processes import prepare_runtime

    prepare_runtime(
        deterministic=config.deterministic,
        memory_share=placed_here(config.reward).share_of_jax,
        compile_cache=config.compile_cache,
    )


def verdict(good: bool) -> str:
    return OK if good else FAILED


def answer_in(frame: Frame) -> Answer:
    """Return the answer used for every photo: two overlapping boxes and two points.

    One point is in both boxes, the other in one. The answer is the completion whose logprobs are
    compared, and the prompt of the masks.
    """
    x, y = frame.width // 8, frame.height // 8
    return Answer(
        thinking=" the object in the middle ",
        boxes=((2 * x, 2 * y, 6 * x, 6 * y), (4 * x, 4 * y, 8 * x, 8 * y)),
        points=((5 * x, 5 * y), (7 * x, 7 * y)),
        labels=(1, 1),
        frame=frame,
    )

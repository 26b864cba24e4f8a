"""Loading of examples and building of prompts ahead of the step, in threads.

Loading can start at any position of the global order of samples (data/sample_order.py).
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import grain

from segr1_jax.data.config import LoaderConfig
from segr1_jax.data.sample_order import example_index, process_positions
from segr1_jax.data.sources import Source
from segr1_jax.errors import UserError
from segr1_jax.types import Example, Prompt

# Number of bad samples for one position after which the set counts as broken.
MAX_ATTEMPTS = 8
PIXEL_BYTES = 4  # three of RGB and one of the mask


@dataclasses.dataclass(frozen=True)
class Ahead:
    """Number of loading threads, and the largest number of samples loaded ahead."""

    threads: int = 2
    samples: int = 1 << 20


def ahead_of(config: LoaderConfig, source: Source, prompt_bytes: int) -> Ahead:
    """Return the limits that `config` allows for `source`.

    `prompt_bytes` is the size of the largest prompt, mostly its patches. The number of samples is
    computed from the largest image of the set, because sizes are known before pixels are read.
    """
    largest = source.largest_pixels * PIXEL_BYTES + prompt_bytes
    return Ahead(config.threads, max(1, (config.ahead_mb << 20) // largest))


class Sample(NamedTuple):
    """Loaded example at its global position, with its prompt.

    `target` is the target answer, None where the stage has none. `replaces` maps the names of the
    bad samples that this one replaces to their errors.
    """

    position: int
    example: Example
    prompt: Prompt
    target: Any = None
    replaces: Mapping[str, str] = MappingProxyType({})


@dataclasses.dataclass
class Skipped:
    """Bad samples so far: name -> error. The run lists them at its end."""

    reasons: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, name: str, error: UserError) -> None:
        self.reasons[name] = str(error)

    def __len__(self) -> int:
        return len(self.reasons)


def batches(
    source: Source,
    build: Callable[[Example], Prompt],
    *,
    target: Callable[[Example], Any] | None = None,
    seed: int,
    start_position: int,
    batch: int,
    process: int = 0,
    processes: int = 1,
    ahead: Ahead = Ahead(),
) -> Iterator[list[Sample]]:
    """Yield the batches of this process without end.

    A global batch is `batch` consecutive positions; this process loads every `processes`-th of
    them. `example_index` maps positions to examples, so the global order is the same for every
    start position and number of processes.

    A sample whose file, prompt or `target` raises UserError is replaced by the next attempt of
    `example_index`; other positions are not affected. The error is recorded in the replacement
    (Sample.replaces), because threads load samples before they are used.

    Raises:
        UserError: `batch` is not a multiple of `processes`, or MAX_ATTEMPTS samples for one
            position are bad.
    """
    if batch % processes:
        raise UserError(
            "batch",
            expected=f"a multiple of the {processes} processes",
            got=str(batch),
            remedy="change batch",
        )

    def load(position: int) -> Sample:
        return _load_or_replace(source, build, target, seed, position)

    positions = process_positions(start_position, process, processes)
    return _ahead(positions, load, batch // processes, ahead)


def sweep(
    source: Source,
    build: Callable[[Example], Prompt],
    *,
    batch: int,
    process: int = 0,
    processes: int = 1,
    ahead: Ahead = Ahead(),
    skipped: Skipped | None = None,
) -> Iterator[list[Sample]]:
    """Yield every example once, in the order of the source, for evaluation.

    Bad samples are left out and recorded in `skipped`. The last batch may be short.
    """
    record = Skipped() if skipped is None else skipped

    def load(position: int) -> Sample | None:
        return _load(source, build, None, position, position, record)

    return _ahead(range(process, len(source), processes), load, batch, ahead)


class Unreadable(NamedTuple):
    """Sample with a bad file or prompt, at the place of the sample in its batch."""

    name: str
    reason: str


def walk(
    source: Source,
    build: Callable[[Example], Prompt],
    positions: range,
    *,
    batch: int,
    ahead: Ahead = Ahead(),
) -> Iterator[list[Sample | Unreadable]]:
    """Yield the examples at `positions`, with bad samples as Unreadable.

    The batches depend only on `positions`, because bad samples keep their place.
    """

    def load(position: int) -> Sample | Unreadable:
        record = Skipped()
        sample = _load(source, build, None, position, position, record)
        return Unreadable(*next(iter(record.reasons.items()))) if sample is None else sample

    return _ahead(positions, load, batch, ahead)


def _load_or_replace(
    source: Source, build: Callable, target: Callable | None, seed: int, position: int
) -> Sample:
    """Load the sample at `position`, or the first of its replacements that can be loaded."""
    record = Skipped()
    for attempt in range(MAX_ATTEMPTS):
        index = example_index(seed, position, len(source), attempt)
        sample = _load(source, build, target, position, index, record)
        if sample is not None:
            return sample._replace(replaces=record.reasons)
    last = list(record.reasons.values())[-1]
    raise UserError(
        "data",
        expected="readable samples",
        got=f"{MAX_ATTEMPTS} bad ones in a row, the last: {last}",
        remedy="fix the set",
    )


def _load(
    source: Source,
    build: Callable,
    target: Callable | None,
    position: int,
    index: int,
    skipped: Skipped,
) -> Sample | None:
    """Load example `index` for `position`, or record its error and return None."""
    try:
        example = source[index]
        return Sample(
            position=position,
            example=example,
            prompt=build(example),
            target=target and target(example),
        )
    except UserError as error:
        skipped.add(source.names[index], error)
        return None


def _ahead(
    positions: range, load: Callable[[int], Any], batch: int, ahead: Ahead
) -> Iterator[list[Sample]]:
    """Load `positions` in order, up to two batches ahead.

    A position for which `load` returns None is left out.
    """
    most = min(2 * batch, ahead.samples)
    options = grain.ReadOptions(num_threads=min(ahead.threads, most), prefetch_buffer_size=most)
    loaded = (
        grain.MapDataset.range(positions.start, positions.stop, positions.step)
        .map(load)
        .to_iter_dataset(options)
    )
    return iter(loaded.batch(batch, drop_remainder=False, batch_fn=list))

"""Examples loaded and prompts built ahead of the step, by threads, from any integer position."""

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

MAX_ATTEMPTS = 8  # replacements tried for one position before the set counts as broken


PIXEL_BYTES = 4  # RGB, and one of the mask


@dataclasses.dataclass(frozen=True)
class Ahead:
    """How many threads load, and how many samples may be ready before they are asked for."""

    threads: int = 2
    samples: int = 1 << 20


def ahead_of(config: LoaderConfig, source: Source, prompt_bytes: int) -> Ahead:
    """What `config` allows for `source`; `prompt_bytes`: the largest prompt, its patches in the main.

    The bound is that of the largest image of the set: sizes are known before files are read.
    """
    largest = source.largest_pixels * PIXEL_BYTES + prompt_bytes
    return Ahead(config.threads, max(1, (config.ahead_mb << 20) // largest))


class Sample(NamedTuple):
    """A loaded example at its global position, its prompt and, where the stage has targets, what it should be answered.

    `replaces` are the bad samples that it stands in for: name -> what was wrong.
    """

    position: int
    example: Example
    prompt: Prompt
    target: Any = None
    replaces: Mapping[str, str] = MappingProxyType({})


@dataclasses.dataclass
class Skipped:
    """Bad samples met so far: name -> what was wrong. The run lists them at its end."""

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
    """Endless batches of this process: from each `batch` consecutive positions (over all processes) its every `processes`-th.

    The order is `order.example_index`; begin at any position, with any number of processes, and the global order is the same. A
    sample whose file, prompt or `target` raises UserError is replaced as `example_index` says, and
    recorded in what replaces it, for threads read ahead of what is used; other positions are not
    touched. Raises UserError if `batch` is no multiple of `processes`, or where MAX_ATTEMPTS
    replacements fail in a row.
    """
    if batch % processes:
        raise UserError(
            "batch",
            expected=f"a multiple of the {processes} processes",
            got=str(batch),
            remedy="change batch",
        )

    def load(position: int) -> Sample:
        record = Skipped()
        for attempt in range(MAX_ATTEMPTS):
            sample = _load(
                source,
                build,
                target,
                position,
                example_index(seed, position, len(source), attempt),
                record,
            )
            if sample is not None:
                return sample._replace(replaces=record.reasons)
        last = list(record.reasons.values())[-1]
        raise UserError(
            "data",
            expected="readable samples",
            got=f"{MAX_ATTEMPTS} bad ones in a row, the last: {last}",
            remedy="mend the set",
        )

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
    """Every example once, in the source's own order, for evaluation; the last batch may be short, bad samples are left out."""
    record = Skipped() if skipped is None else skipped
    positions = range(process, len(source), processes)
    return _ahead(
        positions,
        lambda position: _load(source, build, None, position, position, record),
        batch,
        ahead,
    )


class Unreadable(NamedTuple):
    """A sample whose file or prompt is at fault, in the place where it would have been."""

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
    """The examples at `positions` in batches that depend on `positions` alone: bad samples keep their place."""

    def load(position: int) -> Sample | Unreadable:
        record = Skipped()
        sample = _load(source, build, None, position, position, record)
        return Unreadable(*next(iter(record.reasons.items()))) if sample is None else sample

    return _ahead(positions, load, batch, ahead)


def _load(
    source: Source,
    build: Callable,
    target: Callable | None,
    position: int,
    index: int,
    skipped: Skipped,
) -> Sample | None:
    try:
        example = source[index]
        return Sample(position, example, build(example), target and target(example))
    except UserError as error:
        skipped.add(source.names[index], error)
        return None


def _ahead(
    positions: range, load: Callable[[int], Any], batch: int, ahead: Ahead
) -> Iterator[list[Sample]]:
    """Read `positions` in order, up to two batches ahead; None from `load` leaves the position out."""
    most = min(2 * batch, ahead.samples)
    options = grain.ReadOptions(num_threads=min(ahead.threads, most), prefetch_buffer_size=most)
    loaded = (
        grain.MapDataset.range(positions.start, positions.stop, positions.step)
        .map(load)
        .to_iter_dataset(options)
    )
    return iter(loaded.batch(batch, drop_remainder=False, batch_fn=list))

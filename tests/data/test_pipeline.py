import collections
import itertools
import time

import numpy as np
import pytest
from PIL import Image

from segr1_jax.data.config import DataConfig, LoaderConfig
from segr1_jax.data.file_entries import Entry, FileSource
from segr1_jax.data.pipeline import MAX_ATTEMPTS, Ahead, Skipped, ahead_of, batches, sweep
from segr1_jax.data.sample_order import example_index
from segr1_jax.data.sources import Spread, SyntheticSource
from segr1_jax.errors import UserError
from segr1_jax.types import Example

SIZE = 13


class Numbers:
    """A source of tiny examples, some of them bad."""

    largest_pixels = 1

    def __init__(self, bad=()):
        self.bad, self.names = set(bad), [f"number-{i}" for i in range(SIZE)]

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        if index in self.bad:
            raise UserError(self.names[index], expected="a file", got="none", remedy="mend it")
        return Example(
            id=index, name=self.names[index], image=np.zeros((1, 1, 3), np.uint8), mask=None
        )


def read(source=None, *, count, start=0, process=0, processes=1, batch=4, skipped=None, **options):
    """(position, id) of each sample; what they replace goes into `skipped`."""
    stream = batches(
        source or Numbers(),
        lambda example: example.id * 10,
        seed=5,
        start_position=start,
        batch=batch,
        process=process,
        processes=processes,
        **options,
    )
    parts = list(itertools.islice(stream, count))
    if skipped is not None:
        skipped |= {
            name: why for part in parts for each in part for name, why in each.replaces.items()
        }
    return [[(sample.position, sample.example.id) for sample in part] for part in parts]


def flat(parts):
    return list(itertools.chain.from_iterable(parts))


def test_each_epoch_is_a_new_permutation():
    epochs = [[example_index(5, epoch * SIZE + i, SIZE) for i in range(SIZE)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(SIZE)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != [example_index(6, i, SIZE) for i in range(SIZE)]


@pytest.mark.parametrize("ahead", [Ahead(), Ahead(threads=4), Ahead(threads=4, samples=1)])
def test_batches_follow_the_global_order_across_epochs(ahead):
    expected = [(p, example_index(5, p, SIZE)) for p in range(32)]
    assert flat(read(count=8, ahead=ahead)) == expected


class Large(Numbers):
    """Images of a megapixel; counts those that were read."""

    largest_pixels = 1_000_000
    read = 0

    def __getitem__(self, index):
        self.read += 1
        return super().__getitem__(index)


def settled(source) -> int:
    """How many images have been read once no more are."""
    before = -1
    while before != source.read:
        before = source.read
        time.sleep(0.2)
    return before


@pytest.mark.parametrize(("budget_mb", "samples"), [(20, 4), (1, 1), (1000, 16)])
def test_samples_ahead_are_bounded_in_bytes(budget_mb, samples):
    """4 MB of an image with its mask and one of the prompt.

    Batches of 8, at most two of them ahead.
    """
    source, config = Large(), LoaderConfig(threads=3, ahead_mb=budget_mb)
    ahead = ahead_of(config, source, prompt_bytes=1_000_000)
    assert min(ahead.samples, 16) == samples
    stream = batches(source, lambda example: None, seed=5, start_position=0, batch=8, ahead=ahead)
    for taken in (8, 16, 24):
        next(stream)
        assert settled(source) <= taken + samples


def test_the_largest_image_is_known_without_decoding_one(tmp_path):
    entries = []
    for name, size in (("small", (30, 20)), ("large", (300, 200)), ("broken", (9, 9))):
        path = tmp_path / f"{name}.png"
        Image.new("RGB", size).save(path)
        entries.append(Entry(name, path, None))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert FileSource(entries).largest_pixels == 300 * 200
    assert Spread(FileSource(entries), 2).largest_pixels == 300 * 200
    assert SyntheticSource(DataConfig(size=56)).largest_pixels == 56 * 56


def test_any_start_position_continues_the_same_order():
    assert flat(read(count=5, start=12)) == flat(read(count=8))[12:]


@pytest.mark.parametrize("bad", [(), (2, 7)])
def test_process_count_does_not_change_the_global_batch(bad):
    alone = read(Numbers(bad), count=6)
    halves = [read(Numbers(bad), count=6, process=p, processes=2) for p in range(2)]
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == alone


def test_bad_samples_are_replaced_and_listed_without_moving_others():
    skipped = {}
    whole, mended = flat(read(count=8)), flat(read(Numbers((2, 7)), count=8, skipped=skipped))
    assert len(mended) == len(whole)
    for (position, index), (same_position, other) in zip(whole, mended, strict=True):
        assert position == same_position
        assert other == index if index not in (2, 7) else other not in (2, 7)
    assert sorted(skipped) == ["number-2", "number-7"]


def test_targets_are_made_ahead_and_may_refuse_a_sample():
    def target(example):
        if example.id == 2:
            raise UserError(
                "number-2", expected="a mask with a pixel", got="none", remedy="leave it out"
            )
        return example.id + 100

    stream = batches(
        Numbers(), lambda example: None, target=target, seed=5, start_position=0, batch=SIZE
    )
    samples = next(stream)
    assert all(sample.target == sample.example.id + 100 != 102 for sample in samples)
    assert [name for sample in samples for name in sample.replaces] == ["number-2"]


def test_a_broken_set_ends_with_a_report():
    with pytest.raises(UserError, match=f"{MAX_ATTEMPTS} bad ones in a row"):
        read(Numbers(range(SIZE)), count=1)


def test_batch_must_divide_over_processes():
    with pytest.raises(UserError, match="multiple of the 3 processes"):
        read(count=1, processes=3)


@pytest.mark.parametrize("processes", [1, 2])
def test_sweep_reads_every_good_sample_once(processes):
    skipped = Skipped()
    parts = [
        sample
        for process in range(processes)
        for part in sweep(
            Numbers((4,)),
            lambda e: e.id * 10,
            batch=4,
            process=process,
            processes=processes,
            skipped=skipped,
        )
        for sample in part
    ]
    assert collections.Counter(sample.example.id for sample in parts) == {
        i: 1 for i in range(SIZE) if i != 4
    }
    assert all(sample.prompt == 10 * sample.example.id for sample in parts)
    assert list(skipped.reasons) == ["number-4"]

"""Check a data set whose rows hold images: every split, and every problem with its remedy."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from segr1_jax.data.config import DataConfig
from segr1_jax.data.file_entries import FileSource
from segr1_jax.data.hub_rows import ONE_TABLE, SPLITS, hub_entries, split_names
from segr1_jax.data.sets.check import SplitReport, bad_samples
from segr1_jax.errors import UserError


def holds_rows(path: Path) -> bool:
    """Return whether a path is a parquet file, a folder of them, or a save_to_disk directory."""
    if path.is_file():
        return path.suffix == ".parquet"
    saved = any((path / name).is_file() for name in (ONE_TABLE, SPLITS))
    # Not below other folders: a root of published sets holds the parquet files of FCoT.
    return saved or any(path.glob("*.parquet")) or any(path.glob("data/*.parquet"))


def check_rows(
    config: DataConfig,
    title: str,
    splits: Sequence[str] | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> list[SplitReport]:
    """Check the splits of the set in config.path, by default all of them.

    Only image headers are read; pixels are not decoded. `title` is the name of the set in the
    report, and `progress` is as in check_sets. Raises UserError if the path holds no data set.
    """
    names = splits or split_names(config)
    return [_check_split(config, title, name, progress) for name in names]


def _check_split(config: DataConfig, title: str, split: str, progress: Callable) -> SplitReport:
    try:
        source = FileSource(hub_entries(dataclasses.replace(config, split=split)))
    except UserError as error:
        return SplitReport(title, split, found=0, published=None, problems=[str(error)])
    problems = list(bad_samples(source, f"{title} {split}", progress))
    found = len(source) - len(problems)
    return SplitReport(title, split, found=found, published=None, problems=problems)

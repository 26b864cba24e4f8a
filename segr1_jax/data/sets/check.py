"""What of the published sets is below a folder: counts beside the published ones, and every problem with its file and remedy."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from segr1_jax.data.file_entries import FileSource
from segr1_jax.data.sets.published import PublishedSet, nearest_folder
from segr1_jax.data.sets.registry import SETS
from segr1_jax.errors import UserError

KNOWN = {part for found in SETS.values() for part in Path(found.folder).parts} | {
    "coco_2014",
    "general",
}


@dataclass(frozen=True)
class SplitReport:
    """One split: `found` samples that can be used, of `published` (None: not known); `problems` are whole sentences."""

    title: str
    split: str
    found: int
    published: int | None
    problems: list[str] = field(default_factory=list)


def check_sets(
    root: Path, progress: Callable[[str, int, int], None] = lambda *_: None
) -> list[SplitReport]:
    """Every split of every set whose folder is there; headers are read, pixels are not.

    `progress` hears (set and split, samples done, samples in all). Raises UserError where no set is below `root`.
    """
    there = [found for found in SETS.values() if (root / found.folder).is_dir()]
    if not there:
        names = ", ".join(found.folder for found in SETS.values())
        raise UserError(
            str(root),
            expected=f"at least one of the folders {names}",
            got="none",
            remedy="give the folder that holds the sets",
        )
    renamed = [
        report for found in SETS.values() if found not in there for report in _renamed(root, found)
    ]
    return [
        _check_split(root, found, split, progress) for found in there for split in found.counts
    ] + renamed


def _renamed(root: Path, found: PublishedSet) -> Iterator[SplitReport]:
    """A folder that may be this set under another name."""
    parent, name = (root / found.folder).parent, Path(found.folder).name
    if near := nearest_folder(parent, name, KNOWN):
        problem = f"{parent / near}: not a name of the official layout. Remedy: rename it to {name!r} if it is {found.title}."
        yield SplitReport(found.title, "-", 0, None, [problem])


def _check_split(root: Path, found: PublishedSet, split: str, progress: Callable) -> SplitReport:
    title = f"{found.title} {split}"
    try:
        source = found.read(root, split)
    except UserError as error:
        return SplitReport(found.title, split, 0, found.counts[split], [str(error)])
    if not isinstance(source, FileSource):
        return SplitReport(found.title, split, len(source), found.counts[split])
    problems = list(_problems(source, title, progress))
    surplus = [
        f"{path}: no image of this name. Remedy: add it or remove the mask."
        for path in source.surplus
    ]
    return SplitReport(
        found.title, split, len(source) - len(problems), found.counts[split], problems + surplus
    )


def _problems(source: FileSource, title: str, progress: Callable) -> Iterator[str]:
    for done, entry in enumerate(source.entries, start=1):
        try:
            entry.check()
        except UserError as error:
            yield (
                str(error)
                if error.where != entry.name
                else f"{entry.image}: no mask of this name. Remedy: add it or remove the image."
            )
        progress(title, done, len(source))


def markdown(reports: list[SplitReport]) -> str:
    """A table of the splits, then every problem."""
    lines = ["| set | split | usable | published | problems |", "|---|---|---:|---:|---:|"]
    for r in reports:
        published = "-" if r.published is None else f"{r.published}"
        lines.append(f"| {r.title} | {r.split} | {r.found} | {published} | {len(r.problems)} |")
    listed = [f"- {r.title} {r.split}: {problem}" for r in reports for problem in r.problems]
    missing = [
        found.title for found in SETS.values() if found.title not in {r.title for r in reports}
    ]
    absent = [f"Not here: {', '.join(missing)}."] if missing else []
    return "\n".join([*lines, "", *absent, *listed]) + "\n"


def to_json(reports: list[SplitReport]) -> str:
    """Every figure and problem."""
    return json.dumps([vars(report) for report in reports], indent=1) + "\n"

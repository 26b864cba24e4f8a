"""Check of the published sets in a folder: counts of samples, and every problem with its remedy."""

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
    """Result of the check of one split.

    Attributes:
        title: title of the set.
        split: name of the split.
        found: number of samples that can be used.
        published: number of samples as published (None: not known).
        problems: one text per problem, with file and remedy.
    """

    title: str
    split: str
    found: int
    published: int | None
    problems: list[str] = field(default_factory=list)


def check_sets(
    root: Path, progress: Callable[[str, int, int], None] = lambda *_: None
) -> list[SplitReport]:
    """Check every split of every set whose folder is in `root`.

    Headers are read, pixels are not decoded. `progress` is called with (set and split, samples
    done, total samples). Raises UserError if `root` has no set.
    """
    present = [published for published in SETS.values() if (root / published.folder).is_dir()]
    if not present:
        names = ", ".join(published.folder for published in SETS.values())
        raise UserError(
            str(root),
            expected=f"at least one of the folders {names}",
            got="none",
            remedy="give the folder that holds the sets",
        )
    renamed = [
        report
        for published in SETS.values()
        if published not in present
        for report in _renamed(root, published)
    ]
    return [
        _check_split(root, published, split, progress)
        for published in present
        for split in published.counts
    ] + renamed


def _renamed(root: Path, published: PublishedSet) -> Iterator[SplitReport]:
    """Yield a report of a folder that may be this set under another name, if there is one."""
    folder = root / published.folder
    if near := nearest_folder(folder.parent, folder.name, KNOWN):
        problem = (
            f"{folder.parent / near}: not a name of the official layout. "
            f"Remedy: rename it to {folder.name!r} if it is {published.title}."
        )
        yield SplitReport(
            title=published.title, split="-", found=0, published=None, problems=[problem]
        )


def _check_split(
    root: Path, published: PublishedSet, split: str, progress: Callable
) -> SplitReport:
    found, problems = 0, []
    try:
        source = published.read(root, split)
    except UserError as error:
        problems = [str(error)]
    else:
        found = len(source)
        if isinstance(source, FileSource):
            bad = list(bad_samples(source, f"{published.title} {split}", progress))
            found -= len(bad)
            problems = bad + [
                f"{path}: no image of this name. Remedy: add it or remove the mask."
                for path in source.surplus
            ]
    return SplitReport(
        title=published.title,
        split=split,
        found=found,
        published=published.counts[split],
        problems=problems,
    )


def bad_samples(source: FileSource, title: str, progress: Callable) -> Iterator[str]:
    """Yield the problem of each sample that cannot be used."""
    for done, entry in enumerate(source.entries, start=1):
        try:
            entry.check()
        except UserError as error:
            # An error that names the sample, and no file, means that the sample has no mask.
            yield (
                str(error)
                if error.where != entry.name
                else f"{entry.image}: no mask of this name. Remedy: add it or remove the image."
            )
        progress(title, done, len(source))


def markdown(reports: list[SplitReport]) -> str:
    """Return a Markdown table of the splits, followed by every problem."""
    lines = ["| set | split | usable | published | problems |", "|---|---|---:|---:|---:|"]
    for report in reports:
        count = "-" if report.published is None else str(report.published)
        cells = (report.title, report.split, report.found, count, len(report.problems))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    listed = [
        f"- {report.title} {report.split}: {problem}"
        for report in reports
        for problem in report.problems
    ]
    titles = {report.title for report in reports}
    missing = [published.title for published in SETS.values() if published.title not in titles]
    # A set that is not a published one is checked alone.
    absent = [f"Not here: {', '.join(missing)}."] if 0 < len(missing) < len(SETS) else []
    return "\n".join([*lines, "", *absent, *listed]) + "\n"


def to_json(reports: list[SplitReport]) -> str:
    """Return all reports as a JSON list."""
    return json.dumps([vars(report) for report in reports], indent=1) + "\n"

"""All published data sets by their names in data.set.

A new layout takes one module, one line here, and its toy copy in toy.py.
"""

import difflib
from dataclasses import replace
from pathlib import Path

from segr1_jax.data.file_entries import FileSource
from segr1_jax.data.sets.fcot import FCOT, AnswerSource
from segr1_jax.data.sets.pairs import PAIR_SETS
from segr1_jax.data.sets.published import PublishedSet
from segr1_jax.data.sets.reasonseg import REASONSEG
from segr1_jax.data.sets.refer import REFER_SETS
from segr1_jax.errors import UserError

SETS: dict[str, PublishedSet] = PAIR_SETS | REFER_SETS | {"reasonseg": REASONSEG, "fcot": FCOT}
JOIN = "+"


def published_set(name: str) -> PublishedSet:
    """Return the set `name`. Raises UserError that suggests the nearest name if there is none."""
    if name not in SETS:
        near = difflib.get_close_matches(name, SETS, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else "choose one of these"
        raise UserError(
            "data.set or eval_data.set",
            expected=f"one of {', '.join(SETS)}",
            got=repr(name),
            remedy=remedy,
        )
    return SETS[name]


def published_split(root: Path, name: str, split: str) -> FileSource | AnswerSource:
    """Return the samples of one split below `root`, the folder of all sets.

    The name `a+b` joins the sets a and b; its samples are named `a/NAME` and `b/NAME`.
    """
    parts = name.split(JOIN)
    sources = {part: _split(root, part, split) for part in parts}
    if len(parts) == 1:
        return sources[name]
    if others := [part for part, source in sources.items() if not isinstance(source, FileSource)]:
        raise UserError(
            "data.set or eval_data.set",
            expected="only sets of images with masks in a joined set",
            got=others[0],
            remedy="use this set alone",
        )
    return FileSource(
        [
            replace(entry, name=f"{part}/{entry.name}")
            for part, source in sources.items()
            for entry in source.entries
        ]
    )


def _split(root: Path, name: str, split: str) -> FileSource | AnswerSource:
    published = published_set(name)
    if split not in published.counts:
        raise UserError(
            "data.split or eval_data.split",
            expected=f"one of {', '.join(published.counts)} ({published.title})",
            got=repr(split),
            remedy="choose one of these",
        )
    return published.read(root, split)

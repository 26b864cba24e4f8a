"""All published data sets by the name that data.set takes. One more is one module and one line here."""

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
    """Raises UserError, with the nearest name, where there is no such set."""
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
    """The samples of one split below `root`, the folder of all sets. `a+b` joins sets, whose samples are then `a/NAME`, `b/NAME`."""
    names = name.split(JOIN)
    sources = {each: _split(root, each, split) for each in names}
    if len(names) == 1:
        return sources[name]
    if foreign := [each for each, source in sources.items() if not isinstance(source, FileSource)]:
        raise UserError(
            "data.set or eval_data.set",
            expected="sets of images with masks to be joined",
            got=foreign[0],
            remedy="take it alone",
        )
    return FileSource(
        [
            replace(entry, name=f"{each}/{entry.name}")
            for each, source in sources.items()
            for entry in source.entries
        ]
    )


def _split(root: Path, name: str, split: str) -> FileSource | AnswerSource:
    found = published_set(name)
    if split not in found.counts:
        raise UserError(
            "data.split or eval_data.split",
            expected=f"one of {', '.join(found.counts)} ({found.title})",
            got=repr(split),
            remedy="change it",
        )
    return found.read(root, split)

"""All published data sets by the name that data.set takes. One more is one module and one line here."""

import difflib
from pathlib import Path

from segr1_jax.data.entries import FileSource
from segr1_jax.data.sets.fcot import FCOT, AnswerSource
from segr1_jax.data.sets.pairs import PAIR_SETS
from segr1_jax.data.sets.published import PublishedSet
from segr1_jax.data.sets.reasonseg import REASONSEG
from segr1_jax.data.sets.refer import REFER_SETS
from segr1_jax.errors import UserError

SETS: dict[str, PublishedSet] = PAIR_SETS | REFER_SETS | {"reasonseg": REASONSEG, "fcot": FCOT}


def published_set(name: str) -> PublishedSet:
    """Raises UserError, with the nearest name, where there is no such set."""
    if name not in SETS:
        near = difflib.get_close_matches(name, SETS, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else "choose one of these"
        raise UserError("data.set", expected=f"one of {', '.join(SETS)}", got=repr(name), remedy=remedy)
    return SETS[name]


def published_split(root: Path, name: str, split: str) -> FileSource | AnswerSource:
    """The samples of one split below `root`, the folder that holds all sets."""
    found = published_set(name)
    if split not in found.counts:
        raise UserError("data.split", expected=f"one of {', '.join(found.counts)} ({found.title})", got=repr(split), remedy="change it")
    return found.read(root, split)

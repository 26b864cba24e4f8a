"""The opening of the report page: what the run achieved, in one sentence and a few figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple


class Figure(NamedTuple):
    """A large figure: what it is, its value, and its standard error or a note."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """The opening of a page.

    Attributes:
        sentence: the result.
        figures: the figures behind it.
        notes: how to read them.
        facts: what was done with what, by name.
    """

    sentence: str
    figures: Sequence[Figure] = ()
    notes: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


def verdict_section(verdict: Verdict) -> str:
    """Return the HTML of a verdict; its texts may come from outside."""
    figures = "".join(map(_figure, verdict.figures))
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in verdict.notes)
    facts = "".join(
        f'<div><dt>{escape(name)}</dt><dd dir="auto">{escape(text)}</dd></div>'
        for name, text in verdict.facts.items()
    )
    return (
        f'<section class="verdict"><p class="sentence">{escape(verdict.sentence)}</p>'
        + (f'<ul class="figures">{figures}</ul>' if figures else "")
        + notes
        + (f"<dl>{facts}</dl>" if facts else "")
        + "</section>"
    )


def _figure(figure: Figure) -> str:
    note = f"<small>{escape(figure.note)}</small>" if figure.note else ""
    return f"<li><span>{escape(figure.label)}</span><b>{escape(figure.value)}</b>{note}</li>"

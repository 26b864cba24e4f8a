"""Scores of general benchmarks from generated answers; an answer that does not parse is wrong."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from segr1_jax.data.general_benchmarks import Question

CIRCULAR = 1_000_000  # MMBench gives the rotations of question i the indices i + k * this
PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)  # MME's, of 2000


@dataclass(frozen=True)
class Answered:
    """A question with its generated text; None if it could not be asked."""

    question: Question
    text: str | None

    @property
    def choice(self) -> str | None:
        return None if self.text is None else choice_of(self.text, self.question.options)

    @property
    def right(self) -> bool:
        return self.choice == self.question.answer


def request(question: Question) -> str:
    """Return the text of a question: one option per line, and how to answer."""
    if not question.options:
        return (
            question.text
            if "yes or no" in question.text.lower()
            else f"{question.text} Please answer yes or no."
        )
    options = "\n".join(f"{letter}. {text}" for letter, text in question.options.items())
    return f"{question.text}\n{options}\nAnswer with the letter of the right option alone."


def choice_of(text: str, options: dict[str, str]) -> str | None:
    """Return the letter, "yes" or "no" that an answer begins with; None for anything else.

    Example:
        >>> choice_of("(B) a cat", {"A": "dog", "B": "cat"}), choice_of("Yes, it is.", {})
        ('B', 'yes')
        >>> choice_of("I think B", {"B": "cat"})
    """
    if options:
        found = re.match(r"\s*\(?([A-H])\)?(?![A-Za-z'])", text)
        return found[1] if found and found[1] in options else None
    found = re.match(r"\s*(yes|no)\b", text, re.IGNORECASE)
    return found[1].lower() if found else None


def accuracy(answered: Sequence[Answered]) -> float:
    """Return the percentage of questions with correct answers in every rotation of the options."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for item in answered:
        index = item.question.index
        groups[str(int(index) % CIRCULAR) if index.isdigit() else index].append(item.right)
    return 100 * sum(map(all, groups.values())) / len(groups)


def f1(answered: Sequence[Answered]) -> float:
    """Return the F1 of "yes" in percent, as POPE reports it.

    An answer that does not parse counts as the wrong one of the two.
    """
    said = [item.choice or ("no" if item.question.answer == "yes" else "yes") for item in answered]
    truth = [item.question.answer for item in answered]
    hits = sum(a == t == "yes" for a, t in zip(said, truth, strict=True))
    return 200 * hits / (said.count("yes") + truth.count("yes")) if hits else 0.0


def perception(answered: Sequence[Answered]) -> float:
    """Return the perception score of MME.

    Per category it is the accuracy plus the share of images with only correct answers, in percent.
    """
    total = 0.0
    for category in PERCEPTION:
        mine = [item for item in answered if item.question.category == category]
        by_picture: dict[str, list[bool]] = defaultdict(list)
        for item in mine:
            by_picture[item.question.picture].append(item.right)
        if mine:
            total += 100 * sum(item.right for item in mine) / len(mine) + 100 * sum(
                map(all, by_picture.values())
            ) / len(by_picture)
    return total


SCORES = {"mmbench": accuracy, "ai2d": accuracy, "mme": perception, "pope": f1}
"""By the benchmark's name."""

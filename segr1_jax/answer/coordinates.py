"""Conversion of the coordinates in a text from its author's frame to the frame of the policy."""

import re

import numpy as np

from segr1_jax.answer.grammar import parse
from segr1_jax.common.frames import convert_points
from segr1_jax.errors import UserError
from segr1_jax.types import Frame, ParseStatus

_NUMBER = r"\d{1,6}(?:\.\d{1,6})?"
_PAIR = rf"{_NUMBER}\s*,\s*{_NUMBER}"
_COORDINATES = re.compile(rf"([\[(]\s*)({_PAIR}(?:\s*,\s*{_PAIR})?)(\s*[\])])")
_LABELS = "<labels>"


def move_coordinates(text: str, source: Frame, target: Frame) -> str:
    """Convert every point (2 numbers in brackets) and box (4 numbers) to whole pixels of `target`.

    Coordinates in the thinking are converted too: it must use the same numbers as the answer, or
    the policy learns that the two may differ. Labels are lists of numbers as well, so nothing after
    the last `<labels>` is changed.

    Example:
        >>> text = "a cat at (50, 20) <bbox>[0,10,100,40]</bbox> <labels>[1,0]</labels>"
        >>> move_coordinates(text, Frame(100, 40), Frame(50, 80))
        'a cat at (25, 40) <bbox>[0,20,50,80]</bbox> <labels>[1,0]</labels>'
    """
    before, tag, after = text.rpartition(_LABELS) if _LABELS in text else (text, "", "")

    def moved(match: re.Match) -> str:
        opening, numbers, closing = match.groups()
        flat = [float(number) for number in numbers.split(",")]
        pixels = np.rint(convert_points(np.reshape(flat, (-1, 2)), source, target)).astype(int)
        inside = np.minimum(pixels, (target.width, target.height)).ravel()
        return opening + (", " if ", " in numbers else ",").join(map(str, inside)) + closing

    return _COORDINATES.sub(moved, before) + tag + after


def given_answer(text: str, source: Frame, target: Frame, *, task: str, name: str) -> str:
    """Convert the answer given for the sample `name` from pixels of `source` to those of `target`.

    The result is the answer that the policy should write. Raises UserError if it does not parse
    as an answer of this `task`.
    """
    moved = move_coordinates(text.strip(), source, target)
    _, status = parse(moved, target, task=task)
    if status is not ParseStatus.OK:
        raise UserError(
            name,
            expected=f"an answer that parses (task {task})",
            got=status.value,
            remedy="fix the answer; check data.answer_side",
        )
    return moved

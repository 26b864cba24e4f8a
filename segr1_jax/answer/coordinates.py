"""Coordinates inside a text, moved from the frame that its author saw to the frame that the policy sees."""

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
    """`text` with every point (2 numbers in brackets) and box (4 numbers) rounded to pixels of `target`; in the thinking too.

    The thinking must speak of the same numbers as the answer, or the policy learns that it need not. Labels, which are lists of numbers
    too, stay: nothing after the last `<labels>` is touched.

    Example:
        >>> move_coordinates("a cat at (50, 20) <bbox>[0,10,100,40]</bbox> <labels>[1,0]</labels>", Frame(100, 40), Frame(50, 80))
        'a cat at (25, 40) <bbox>[0,20,50,80]</bbox> <labels>[1,0]</labels>'
    """
    before, tag, after = text.rpartition(_LABELS) if _LABELS in text else (text, "", "")

    def moved(found: re.Match) -> str:
        opening, numbers, closing = found.groups()
        flat = [float(number) for number in numbers.split(",")]
        pixels = np.rint(convert_points(np.reshape(flat, (-1, 2)), source, target)).astype(int)
        inside = np.minimum(pixels, (target.width, target.height)).ravel()
        return opening + (", " if ", " in numbers else ",").join(map(str, inside)) + closing

    return _COORDINATES.sub(moved, before) + tag + after


def given_answer(text: str, source: Frame, target: Frame, *, task: str, name: str) -> str:
    """Somebody's answer to the sample `name`, in pixels of `source`, as the policy should write it: in pixels of `target`.

    Raises UserError where it then is no answer of this `task`.
    """
    moved = move_coordinates(text.strip(), source, target)
    _, status = parse(moved, target, task=task)
    if status is not ParseStatus.OK:
        raise UserError(
            name,
            expected=f"an answer that parses (task {task})",
            got=status.value,
            remedy="mend it; check data.answer_side",
        )
    return moved

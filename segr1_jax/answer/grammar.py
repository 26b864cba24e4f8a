"""Grammar of answers: one parser and one formatter for training, evaluation and demo.

    rl, sft   <think>..</think> <bbox>[x1,y1,x2,y2]</bbox>,
              <points>[[x,y],..]</points>, <labels>[1,0,..]</labels>
    prerl     <points>[[x,y],..]</points>, <labels>[1,0,..]</labels>

Several objects repeat <bbox>. There is one list of points, with at least one point, and one list of
as many labels. Whitespace is allowed between any two symbols, and a comma between elements or items
is optional. Nothing else is allowed before, between or after the elements. The first </think> ends
the reasoning, and tags inside the reasoning are ignored. The scanner reads each character once, so
its time grows linearly with the length of any text.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from segr1_jax.common.frames import convert_box, convert_points
from segr1_jax.types import Answer, Frame, ParseStatus, SamPrompt

_SPACE = " \t\r\n"
_DIGITS = "0123456789"
# Larger integers saturate here: they are outside every frame, and int() of a long digit string
# takes quadratic time.
_HUGE = 10**6


@dataclasses.dataclass(frozen=True)
class AnswerLimits:
    """Largest number of characters, boxes and points that the parser accepts in one answer."""

    max_chars: int = 8192
    max_boxes: int = 16
    max_points: int = 64


def parse(
    text: str, frame: Frame, *, task: str = "rl", limits: AnswerLimits = AnswerLimits()
) -> tuple[Answer | None, ParseStatus]:
    """Parse an answer whose integers are pixels of `frame`. No text raises an error.

    The status names the first fault: MISSING_X where element X should begin, BAD_X where it is
    malformed, UNFINISHED where the text ends inside an element, TRAILING_TEXT after the last
    element. A box needs x1 < x2 and y1 < y2; 0 and the frame's width and height are inside.

    Example:
        >>> head = "<think>fish</think> <bbox>[1,2,30,40]</bbox>, "
        >>> text = head + "<points>[[5,6]]</points>, <labels>[1]</labels>"
        >>> answer, status = parse(text, Frame(56, 56))
        >>> answer.boxes, answer.points, answer.labels, status.value
        (((1, 2, 30, 40),), ((5, 6),), (1,), 'ok')
    """
    if len(text) > limits.max_chars:
        return None, ParseStatus.TOO_LONG
    try:
        return _read_answer(_Scanner(text), frame, task, limits), ParseStatus.OK
    except _Rejected as rejected:
        return None, rejected.status


def render(answer: Answer, *, task: str = "rl") -> str:
    """Return the text of an answer, in the form used as a training target.

    `parse` reads it back unchanged.
    """
    parts = [] if task == "prerl" else [f"<bbox>{_list(box)}</bbox>" for box in answer.boxes]
    parts.append(f"<points>[{','.join(map(_list, answer.points))}]</points>")
    parts.append(f"<labels>{_list(answer.labels)}</labels>")
    thinking = "" if task == "prerl" else f"<think>{answer.thinking}</think> "
    return thinking + ", ".join(parts)


def split_thinking(text: str) -> tuple[str, str]:
    """Return the reasoning of any text and what follows it, for display.

    The reasoning is "" where the text does not begin with it; what follows is "" where it does not
    end.

    Example:
        >>> split_thinking("<think>a fish</think> <bbox>[1,2,30,40]</bbox>")
        ('a fish', '<bbox>[1,2,30,40]</bbox>')
    """
    head, opened, rest = text.partition("<think>")
    if head.strip() or not opened:
        return "", text
    thinking, _, answer = rest.partition("</think>")
    return thinking.strip(), answer.strip()


def sam_prompts(answer: Answer, native: Frame) -> tuple[SamPrompt, ...]:
    """Return one SAM2 call per box with the points inside it, in pixels of the `native` frame.

    Without boxes, one call takes all points. The edges of a box are inside it; a point in two boxes
    belongs to both calls, and a point in no box is left out (`stray_points` counts these).
    """
    points_K2 = np.array(answer.points, np.int64).reshape(-1, 2)
    native_K2 = convert_points(points_K2, answer.frame, native)
    labels_K = np.array(answer.labels, np.int32)
    if not answer.boxes:
        return (SamPrompt(box=None, points=native_K2, labels=labels_K),)
    chosen = [
        (box, np.array([_inside(point, box) for point in answer.points], bool))
        for box in answer.boxes
    ]
    return tuple(
        SamPrompt(
            box=convert_box(np.array(box), answer.frame, native),
            points=native_K2[inside_K],
            labels=labels_K[inside_K],
        )
        for box, inside_K in chosen
    )


def stray_points(answer: Answer) -> int:
    """Count the points that are in no box (0 for an answer without boxes)."""
    return sum(
        bool(answer.boxes) and not any(_inside(point, box) for box in answer.boxes)
        for point in answer.points
    )


class _Rejected(Exception):
    def __init__(self, status: ParseStatus):
        super().__init__(status.value)
        self.status = status


class _Scanner:
    """Cursor over the text that only moves forward."""

    def __init__(self, text: str):
        self.text = text
        self.at = 0

    def space(self) -> None:
        while self.at < len(self.text) and self.text[self.at] in _SPACE:
            self.at += 1

    def comma(self) -> bool:
        """Pass an optional comma with the space around it; return whether there was one."""
        self.space()
        is_comma = self.accept(",")
        self.space()
        return is_comma

    def accept(self, symbol: str) -> bool:
        """Pass `symbol` if it comes next; return whether it did."""
        is_next = self.text.startswith(symbol, self.at)
        self.at += len(symbol) if is_next else 0
        return is_next

    def expect(self, symbol: str, otherwise: ParseStatus) -> None:
        """Pass `symbol` and the space before it.

        Rejects as UNFINISHED where the text ends inside the symbol, else as `otherwise`.
        """
        self.space()
        if not self.accept(symbol):
            reaches_end = self.at + len(symbol) > len(self.text)
            is_cut = reaches_end and symbol.startswith(self.text[self.at :])
            raise _Rejected(ParseStatus.UNFINISHED if is_cut else otherwise)

    def integer(self, otherwise: ParseStatus) -> int:
        """Pass space and the decimal digits of an unsigned integer; return its value."""
        self.space()
        start = self.at
        value = 0
        while self.at < len(self.text) and self.text[self.at] in _DIGITS:
            value = min(value * 10 + _DIGITS.index(self.text[self.at]), _HUGE)
            self.at += 1
        if self.at == start:
            raise _Rejected(otherwise if start < len(self.text) else ParseStatus.UNFINISHED)
        return value

    def items(
        self,
        item: Callable[[], object],
        otherwise: ParseStatus,
        limit: int,
        beyond: ParseStatus = ParseStatus.TOO_MANY,
    ) -> tuple:
        """Pass `[item, item, ...]` of at least one item; a comma between items is optional.

        Rejects as `beyond` where there are more than `limit` items.
        """
        self.expect("[", otherwise)
        values = [item()]
        while True:
            comma = self.comma()
            if not comma and self.accept("]"):
                return tuple(values)
            if len(values) == limit:
                raise _Rejected(beyond)
            values.append(item())


def _read_answer(scanner: _Scanner, frame: Frame, task: str, limits: AnswerLimits) -> Answer:
    boxed = task != "prerl"
    thinking = _read_thinking(scanner) if boxed else ""
    boxes = _read_boxes(scanner, frame, limits) if boxed else ()
    points = _read_points(scanner, frame, limits)
    labels = _read_labels(scanner, limits)
    if len(labels) != len(points):
        raise _Rejected(ParseStatus.LABELS_MISMATCH)
    scanner.space()
    if scanner.at < len(scanner.text):
        raise _Rejected(ParseStatus.TRAILING_TEXT)
    return Answer(thinking=thinking, boxes=boxes, points=points, labels=labels, frame=frame)


def _read_thinking(scanner: _Scanner) -> str:
    scanner.space()
    if not scanner.accept("<think>"):
        raise _Rejected(ParseStatus.MISSING_THINK)
    end = scanner.text.find("</think>", scanner.at)
    if end < 0:
        raise _Rejected(ParseStatus.UNFINISHED)
    thinking = scanner.text[scanner.at : end]
    if "<think>" in thinking:
        raise _Rejected(ParseStatus.BAD_THINK)
    scanner.at = end + len("</think>")
    return thinking


def _read_boxes(
    scanner: _Scanner, frame: Frame, limits: AnswerLimits
) -> tuple[tuple[int, int, int, int], ...]:
    bad, boxes = ParseStatus.BAD_BOX, []
    scanner.comma()
    while scanner.accept("<bbox>"):
        if len(boxes) == limits.max_boxes:
            raise _Rejected(ParseStatus.TOO_MANY)
        box = scanner.items(lambda: scanner.integer(bad), bad, limit=4, beyond=bad)
        scanner.expect("</bbox>", bad)
        if len(box) < 4 or box[0] >= box[2] or box[1] >= box[3]:
            raise _Rejected(bad)
        _require_inside((box[2], box[3]), frame)
        boxes.append(box)
        scanner.comma()
    if not boxes:
        raise _Rejected(ParseStatus.MISSING_BOX)
    return tuple(boxes)


def _read_points(
    scanner: _Scanner, frame: Frame, limits: AnswerLimits
) -> tuple[tuple[int, int], ...]:
    bad = ParseStatus.BAD_POINTS

    def point() -> tuple[int, int]:
        pair = scanner.items(lambda: scanner.integer(bad), bad, limit=2, beyond=bad)
        if len(pair) < 2:
            raise _Rejected(bad)
        _require_inside(pair, frame)
        return pair

    scanner.space()
    if not scanner.accept("<points>"):
        raise _Rejected(ParseStatus.MISSING_POINTS)
    points = scanner.items(point, bad, limits.max_points)
    scanner.expect("</points>", bad)
    return points


def _read_labels(scanner: _Scanner, limits: AnswerLimits) -> tuple[int, ...]:
    bad = ParseStatus.BAD_LABELS
    scanner.comma()
    if not scanner.accept("<labels>"):
        raise _Rejected(ParseStatus.MISSING_LABELS)
    labels = scanner.items(lambda: scanner.integer(bad), bad, limits.max_points)
    scanner.expect("</labels>", bad)
    if any(label > 1 for label in labels):
        raise _Rejected(bad)
    return labels


def _require_inside(point: tuple[int, int], frame: Frame) -> None:
    if point[0] > frame.width or point[1] > frame.height:
        raise _Rejected(ParseStatus.OUT_OF_FRAME)


def _inside(point: tuple[int, int], box: tuple[int, int, int, int]) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def _list(items: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, items))}]"

"""The answer grammar as one regular expression over the whole text, slow and plain.

Random texts to compare the parser with it are made here too.
"""

import itertools
import re
from random import Random

from segr1_jax.answer.grammar import AnswerLimits
from segr1_jax.types import Answer, Frame

FRAME = Frame(168, 140)
DEFAULT = AnswerLimits()

# Possessive (`*+`, Python 3.11): what follows never begins with what was passed, and a long run of
# spaces is not split in all ways.
S = r"[ \t\r\n]*+"
SEP = rf"{S},?{S}"
NUM = r"[0-9]++"
# Two numbers in a row need a comma or a space between them, else they are one number.
APART = rf"(?:{S},{S}|[ \t\r\n]++)"
PAIR = rf"\[{S}{NUM}{APART}{NUM}{S}\]"
BOX = rf"<bbox>{S}\[{S}{NUM}{APART}{NUM}{APART}{NUM}{APART}{NUM}{S}\]{S}</bbox>"
POINTS = rf"<points>{S}\[{S}{PAIR}(?:{SEP}{PAIR})*{S}\]{S}</points>"
LABELS = rf"<labels>{S}\[{S}0*[01](?:{APART}0*[01])*{S}\]{S}</labels>"
THINK = r"<think>(?P<think>(?:(?!</?think>)[\s\S])*)</think>"
MARKS = rf"(?P<points>{POINTS}){SEP}(?P<labels>{LABELS})"
WITH_BOXES = re.compile(rf"{S}{THINK}{SEP}(?P<boxes>{BOX}(?:{SEP}{BOX})*){SEP}{MARKS}{S}")
MARKS_ONLY = re.compile(rf"{S}(?P<think>)(?P<boxes>){MARKS}{S}")
GRAMMAR = {"rl": WITH_BOXES, "sft": WITH_BOXES, "prerl": MARKS_ONLY}


def slow_parse(
    text: str, frame: Frame, task: str = "rl", limits: AnswerLimits = DEFAULT
) -> Answer | None:
    """The answer, or None for a text that is none."""
    match = GRAMMAR[task].fullmatch(text)
    if match is None or len(text) > limits.max_chars:
        return None
    boxes, points = _rows(match["boxes"], 4), _rows(match["points"], 2)
    labels = tuple(itertools.chain(*_rows(match["labels"], 1)))
    few = len(boxes) <= limits.max_boxes and len(points) <= limits.max_points
    inside = all(
        x <= frame.width and y <= frame.height
        for x, y in [*points, *(b[:2] for b in boxes), *(b[2:] for b in boxes)]
    )
    sane = all(x1 < x2 and y1 < y2 for x1, y1, x2, y2 in boxes) and len(labels) == len(points)
    return Answer(match["think"], boxes, points, labels, frame) if few and inside and sane else None


def _rows(text: str, length: int) -> tuple[tuple[int, ...], ...]:
    # Seven digits are outside of every frame already, and int() refuses strings of thousands.
    numbers = [int(digits.lstrip("0")[:7] or "0") for digits in re.findall(NUM, text)]
    return tuple(tuple(numbers[i : i + length]) for i in range(0, len(numbers), length))


TAGS = tuple(
    f"<{slash}{name}>" for name in ("think", "bbox", "points", "labels") for slash in ("", "/")
)
SNIPPETS = (
    *TAGS,
    *"[],;-+.e0129_</ \n\r\t\v\u00a0²٣",
    "[[",
    "]]",
    ",,",
    "[1,2,3,4]",
    "[5,6]",
    "00",
    "99999",
    "done",
)
WORDS = (
    "a",
    "fish",
    "left",
    "of",
    "the",
    "coral",
    "[3,4]",
    "<bbox>[1,2,3,4]</bbox>",
    "x < y",
    "魚",
    "\n",
)
GAPS = ("", "", "", " ", "\n", " \t")
COMMAS = (",", ",", ", ", " ,", " ", "\n")
LIMITS = (
    DEFAULT,
    AnswerLimits(max_chars=10**6, max_boxes=10**5, max_points=10**5),
    AnswerLimits(240, 2, 3),
)
LONGEST = 100_000
LONG_SHARE = 0.002  # of the numbers of items, and of the texts with one part repeated


def random_text(rng: Random) -> tuple[str, str, AnswerLimits]:
    """A text of at most LONGEST characters, its task and its limits.

    A realistic answer, at times very long, with up to three faults.
    """
    task, limits = rng.choice(("rl", "prerl", "sft")), rng.choice(LIMITS)
    elements = _elements(rng, "prerl" if rng.random() < 0.02 else task)
    if rng.random() < 0.03:
        rng.shuffle(elements)
    if rng.random() < LONG_SHARE:
        at = rng.randrange(len(elements))
        elements[at] = _repeat_a_part(rng, elements[at], size=int(10 ** rng.uniform(3, 5)))
    text = (
        rng.choice(GAPS)
        + elements[0]
        + "".join(rng.choice(COMMAS) + element for element in elements[1:])
        + rng.choice(GAPS)
    )
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3))):
        text = _mutate(rng, text)
    return text[:LONGEST], task, limits


def _elements(rng: Random, task: str) -> list[str]:
    boxes = [_box(rng) for _ in range(_count(rng))]
    points = [(_upto(rng, FRAME.width), _upto(rng, FRAME.height)) for _ in range(_count(rng))]
    labels = [rng.choice((1, 1, 0)) for _ in points] + [1] * (rng.random() < 0.02)
    pairs = [_list(rng, point) for point in points]
    marks = [f"<points>{_list(rng, pairs)}</points>", f"<labels>{_list(rng, labels)}</labels>"]
    if task == "prerl":
        return marks
    thinking = " ".join(rng.choices(WORDS, k=3 * _count(rng)))
    return [
        f"<think>{thinking}</think>",
        *(f"<bbox>{_list(rng, box)}</bbox>" for box in boxes),
        *marks,
    ]


def _count(rng: Random) -> int:
    return (
        rng.choice((1, 1, 2, 3, 5))
        if rng.random() >= LONG_SHARE
        else int(10 ** rng.uniform(2, 3.5))
    )


def _box(rng: Random) -> tuple[int, int, int, int]:
    """Corners in order, one box in eighty without width or height."""
    (x1, x2), (y1, y2) = (
        sorted(_upto(rng, side) for _ in range(2)) for side in (FRAME.width, FRAME.height)
    )
    return x1, y1, x2, y2


def _upto(rng: Random, side: int) -> int:
    """A coordinate: anywhere inside, at times the edge or one beyond."""
    return rng.randrange(side + 1) if rng.random() < 0.99 else side + rng.randrange(2)


def _list(rng: Random, items) -> str:
    comma = rng.choice(COMMAS)
    return f"[{rng.choice(GAPS)}{comma.join(map(str, items))}{rng.choice(GAPS)}]"


def _repeat_a_part(rng: Random, text: str, size: int) -> str:
    start = rng.randrange(len(text))
    end = start + rng.randint(1, 12)
    part = text[start:end]
    return text[:start] + part * (size // len(part)) + text[end:]


def _mutate(rng: Random, text: str) -> str:
    start = rng.randrange(len(text) + 1)
    if rng.random() < 0.1:
        return text[:start]
    if rng.random() < 0.1:
        return text[:start] + text[start : start + 8] + text[start:]
    return text[:start] + rng.choice(SNIPPETS) + text[start + rng.choice((0, 0, 1, 1, 2, 7)) :]

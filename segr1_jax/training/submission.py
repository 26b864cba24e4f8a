"""The completions of one rollout on their way to their rewards.

Shape legend: B prompts of this process; G completions per prompt; T longest completion.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Int

from segr1_jax.data.pipeline import Sample
from segr1_jax.reward.judging import Judged
from segr1_jax.rollout.sampler import Samples
from segr1_jax.types import Completion

Sent = TypeVar("Sent")
Rows = Int[np.ndarray, " _"]


class Ended(NamedTuple):
    """Text of a completion that is complete, with its number in the group of the sample.

    `finished` is False where it was cut at the length cap.
    """

    sample: Sample
    number: int
    text: str
    finished: bool


@runtime_checkable
class Rewards(Protocol):
    """Rewards of this process's groups, by row."""

    def send_rest(self, groups: Sequence[Sequence[Completion]], rows: Rows) -> None:
        """Send what is not sent yet, row by row in this order; `groups` are those of all rows."""
        ...

    def of(self, rows: Rows) -> list[list[Judged]]:
        """Return the rewards of these rows; waits for those that are being computed."""
        ...


class KnownRewards:
    """Rewards that are there already."""

    def __init__(self, judged: Sequence[list[Judged]]):
        self._judged = judged

    def send_rest(self, groups: Sequence[Sequence[Completion]], rows: Rows) -> None:
        """Send nothing."""

    def of(self, rows: Rows) -> list[list[Judged]]:
        """Return the rewards of these rows."""
        return [self._judged[row] for row in rows]


class Submission(Generic[Sent]):
    """Completions that are sent for scoring as they end, while others are still decoded.

    No reward depends on what is sent at which time. Completions of a row are sent apart from those
    of other rows, so that a micro-batch waits for its own rewards only.

    Args:
        send: sends completions of one sample for scoring.
        collect: waits for the rewards of what one call of `send` returned, in its order.
        room: returns how many completions `send` takes now without waiting.
        samples: the samples of this process, one for each row.
        local: returns this process's rows of global arrays, as numpy.
        decode: returns the text of token ids.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Ended]], Sent],
        collect: Callable[[Sent], list[Judged]],
        room: Callable[[], int],
        samples: Sequence[Sample],
        local: Callable[[Any], Any],
        decode: Callable[[Int[np.ndarray, " T"]], str],
    ):
        self._send_ended, self._collect, self._room = send, collect, room
        self._samples, self._local, self._decode = samples, local, decode
        # By row: numbers that were sent; (numbers, what `send` returned) of those without rewards;
        # rewards by number.
        self._known: list[set[int]] = [set() for _ in samples]
        self._waiting: list[list[tuple[list[int], Sent]]] = [[] for _ in samples]
        self._judged: list[dict[int, Judged]] = [{} for _ in samples]

    def watch(self, drawn: Samples) -> None:
        """Send completions that have finished, as many as there is room for."""
        room = self._room()
        tokens_BGT, mask_BGT, finished_BG = self._local((drawn.tokens, drawn.mask, drawn.finished))
        for row, finished_G in enumerate(finished_BG):
            ended = {*np.flatnonzero(finished_G).tolist()} - self._known[row]
            numbers = sorted(ended)[:room]
            room -= len(numbers)
            self._send(
                row,
                (
                    (number, self._decode(tokens_BGT[row, number][mask_BGT[row, number]]), True)
                    for number in numbers
                ),
            )

    def send_rest(self, groups: Sequence[Sequence[Completion]], rows: Rows) -> None:
        """Send what is not sent yet, row by row in this order; `groups` are those of all rows."""
        for row in rows.tolist():
            self._send(
                row,
                (
                    (completion.sample, completion.text, completion.finished)
                    for completion in groups[row]
                    if completion.sample not in self._known[row]
                ),
            )

    def of(self, rows: Rows) -> list[list[Judged]]:
        """Return the rewards of these rows; waits for those that are being computed."""
        return [self._group(row) for row in rows.tolist()]

    def _send(self, row: int, texts: Iterable[tuple[int, str, bool]]) -> None:
        if ended := [Ended(self._samples[row], *text) for text in texts]:
            numbers = [each.number for each in ended]
            self._known[row].update(numbers)
            self._waiting[row].append((numbers, self._send_ended(ended)))

    def _group(self, row: int) -> list[Judged]:
        judged, waiting = self._judged[row], self._waiting[row]
        while waiting:
            numbers, sent = waiting.pop(0)
            judged |= zip(numbers, self._collect(sent), strict=True)
        return [judged[number] for number in sorted(judged)]

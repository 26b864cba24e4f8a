"""The completions of one rollout on their way to their rewards.

Shape legend: B prompts of this process; G completions per prompt; T longest completion.
"""

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Int

from segr1_jax.data.pipeline import Sample
from segr1_jax.reward.judging import Judged
from segr1_jax.rollout.sampler import Samples
from segr1_jax.types import Completion

Sent = TypeVar("Sent")
Rows = Int[np.ndarray, " _"]


class Answer(NamedTuple):
    """A completion of a sample as text, with its number in the group."""

    sample: Sample
    number: int
    text: str
    finished: bool


@runtime_checkable
class Rewards(Protocol):
    """Rewards of this process's groups, by row."""

    def send_rest(self, groups: Sequence[Sequence[Completion]], parts: Sequence[Rows]) -> None:
        """Send what was not sent yet of all groups, those of each part of the rows together."""
        ...

    def of(self, rows: Rows) -> list[list[Judged]]:
        """Return the rewards of these rows; waits for those that are being computed."""
        ...


class KnownRewards:
    """Rewards that are there already."""

    def __init__(self, judged: Sequence[list[Judged]]):
        self._judged = judged

    def send_rest(self, groups: Sequence[Sequence[Completion]], parts: Sequence[Rows]) -> None:
        """Send nothing."""

    def of(self, rows: Rows) -> list[list[Judged]]:
        """Return the rewards of these rows."""
        return [self._judged[row] for row in rows]


class Submission(Generic[Sent]):
    """Completions that are sent for scoring as they finish, while others are still decoded.

    The order in which they are sent depends on their lengths alone, and no reward depends on it.

    Args:
        send: sends answers for scoring.
        collect: waits for the rewards of what one call of `send` returned, in its order.
        samples: the samples of this process, one for each row.
        local: returns this process's rows of global arrays, as numpy.
        decode: returns the text of token ids.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Answer]], Sent],
        collect: Callable[[Sent], list[Judged]],
        samples: Sequence[Sample],
        local: Callable[[Samples], Samples],
        decode: Callable[[Int[np.ndarray, " T"]], str],
    ):
        self._send_answers, self._collect = send, collect
        self._samples, self._local, self._decode = samples, local, decode
        # By row, then by number in the group: the index in `_sent`, and that of the answer in it.
        self._places: list[dict[int, tuple[int, int]]] = [{} for _ in samples]
        self._sent: list[Sent | list[Judged]] = []
        self._is_collected: list[bool] = []

    def watch(self, drawn: Samples) -> None:
        """Send the completions that have finished since the call before."""
        tokens_BGT, _, mask_BGT, finished_BG = self._local(drawn)
        finished = map(tuple, np.argwhere(finished_BG).tolist())
        new = [(row, number) for row, number in finished if number not in self._places[row]]
        texts = [self._decode(tokens_BGT[place][mask_BGT[place]]) for place in new]
        self._send(new, texts, [True] * len(new))

    def send_rest(self, groups: Sequence[Sequence[Completion]], parts: Sequence[Rows]) -> None:
        """Send the completions that `watch` has not seen, those of each part of the rows together.

        `groups` are the completions of all rows, G each.
        """
        for rows in parts:
            rest = [
                (row, completion.sample)
                for row in rows.tolist()
                for completion in groups[row]
                if completion.sample not in self._places[row]
            ]
            completions = [groups[row][number] for row, number in rest]
            self._send(
                rest,
                [completion.text for completion in completions],
                [completion.finished for completion in completions],
            )

    def of(self, rows: Rows) -> list[list[Judged]]:
        """Return the rewards of these rows; waits for those that are being computed."""
        return [
            [self._judged(*place) for _, place in sorted(self._places[row].items())]
            for row in rows.tolist()
        ]

    def _send(self, places: list[tuple[int, int]], texts: list[str], finished: list[bool]) -> None:
        if not places:
            return
        for index, (row, number) in enumerate(places):
            self._places[row][number] = (len(self._sent), index)
        answers = [
            Answer(self._samples[row], number, text, ended)
            for (row, number), text, ended in zip(places, texts, finished, strict=True)
        ]
        self._sent.append(self._send_answers(answers))
        self._is_collected.append(False)

    def _judged(self, batch: int, index: int) -> Judged:
        if not self._is_collected[batch]:
            self._sent[batch] = self._collect(self._sent[batch])
            self._is_collected[batch] = True
        return self._sent[batch][index]

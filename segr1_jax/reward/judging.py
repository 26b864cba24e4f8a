"""Rewards of answer texts: parse a text, map its prompts to native pixels, score the mask of SAM2.

`submit` sends the requests and `collect` waits for the scores, so that other work (the reference
log-probabilities) runs between the two calls. `legacy` selects the reward of the reference code
(reward/legacy.py).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Bool

from segr1_jax.answer.grammar import parse, sam_prompts
from segr1_jax.reward.client import RewardClient
from segr1_jax.reward.combine import combine
from segr1_jax.reward.config import RewardWeights
from segr1_jax.reward.legacy import legacy_example, legacy_pairs, legacy_score
from segr1_jax.types import Answer, Example, Frame, ParseStatus, Reward, ScoreRequest

Submitted, Finished = TypeVar("Submitted"), TypeVar("Finished")


@dataclass(frozen=True)
class AnswerText:
    """Text that the policy wrote for an example.

    An unfinished text (cut at the length cap) never counts as an answer.
    """

    example: Example
    text: str
    finished: bool = True


@dataclass(frozen=True)
class Judged:
    """Reward of one text with its parsed answer.

    `mask` is present where it was requested and the text parsed; a legacy mask is 768 x 768.
    """

    reward: Reward
    answer: Answer | None
    mask: Bool[np.ndarray, "H W"] | None


@dataclass(frozen=True)
class Pending:
    """Texts whose masks are being scored."""

    ticket: int
    answers: tuple[Answer | None, ...]
    statuses: tuple[ParseStatus, ...]
    legacy: bool


def one_behind(
    submitted: Iterable[Submitted], finish: Callable[[Submitted], Finished]
) -> Iterator[Finished]:
    """Yield `finish(item)` of each item after the next item has been submitted.

    While the sidecar computes the masks of one batch, the policy writes the answers of the next.
    Two batches of images are in memory at a time.
    """
    waiting: list[Submitted] = []
    for item in submitted:
        waiting.append(item)
        if len(waiting) > 1:
            yield finish(waiting.pop(0))
    for item in waiting:
        yield finish(item)


def encode(client: RewardClient, example: Example, *, legacy: bool = False) -> None:
    """Request the encoding of the image of a later `submit`. Never waits."""
    client.encode((legacy_example(example) if legacy else example).image)


def submit(
    client: RewardClient,
    texts: Sequence[AnswerText],
    frame_of: Callable[[Example], Frame],
    task: str,
    *,
    want_masks: bool = False,
    legacy: bool = False,
) -> Pending:
    """Parse every text and send a request to the sidecar for each text that parsed.

    Coordinates in a text are pixels of `frame_of(example)`.
    """
    parsed = [
        parse(item.text, frame_of(item.example), task=task)
        if item.finished
        else (None, ParseStatus.UNFINISHED)
        for item in texts
    ]
    pairs = [
        (item.example, answer)
        for item, (answer, _) in zip(texts, parsed, strict=True)
        if answer is not None
    ]
    if legacy:
        # The legacy S-measure is computed here, from the mask.
        pairs, want_masks = legacy_pairs(pairs), True
    requests = [
        ScoreRequest(example.image, example.mask, sam_prompts(answer, example.frame), want_masks)
        for example, answer in pairs
    ]
    return Pending(
        client.submit(requests),
        tuple(answer for answer, _ in parsed),
        tuple(status for _, status in parsed),
        legacy,
    )


def collect(client: RewardClient, pending: Pending, weights: RewardWeights) -> list[Judged]:
    """Wait for the scores and return one result per text, in order."""
    scores = iter(client.collect(pending.ticket))
    judged = []
    for answer, status in zip(pending.answers, pending.statuses, strict=True):
        score = next(scores) if answer is not None else None
        if score and pending.legacy:
            score = legacy_score(score)
        judged.append(
            Judged(combine(weights, status, score), answer, score.mask if score else None)
        )
    return judged

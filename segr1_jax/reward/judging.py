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
from segr1_jax.reward.legacy import legacy_example, legacy_pairs, legacy_score
from segr1_jax.reward.terms import TermFault, Terms
from segr1_jax.types import (
    Answer,
    Example,
    Frame,
    ParseStatus,
    Reward,
    Score,
    ScoreRequest,
    ScoreStatus,
)

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
    `fault` says which own term failed on it, and how; the reward is then invalid.
    """

    reward: Reward
    answer: Answer | None
    mask: Bool[np.ndarray, "H W"] | None
    fault: str = ""


@dataclass(frozen=True)
class Pending:
    """Texts whose masks are being scored; `want_masks` is that of `submit`."""

    ticket: int
    texts: tuple[AnswerText, ...]
    answers: tuple[Answer | None, ...]
    statuses: tuple[ParseStatus, ...]
    want_masks: bool
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
    need_masks: bool = False,
    legacy: bool = False,
) -> Pending:
    """Parse every text and send a request to the sidecar for each text that parsed.

    Coordinates in a text are pixels of `frame_of(example)`. The sidecar sends masks if they are
    wanted by the caller or needed by a term of the reward (Terms.need_masks).
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
        pairs, need_masks = legacy_pairs(pairs), True
    sent = want_masks or need_masks
    requests = [
        ScoreRequest(example.image, example.mask, sam_prompts(answer, example.frame), sent)
        for example, answer in pairs
    ]
    return Pending(
        client.submit(requests),
        tuple(texts),
        tuple(answer for answer, _ in parsed),
        tuple(status for _, status in parsed),
        want_masks,
        legacy,
    )


def collect(client: RewardClient, pending: Pending, terms: Terms | None) -> list[Judged]:
    """Wait for the scores and return one result per text, in order.

    `terms` are those of the rewards, None where only masks are read. Own terms are called here, on
    the thread of the caller.

    Raises:
        UserError: an own term has failed too often.
    """
    scores = iter(client.collect(pending.ticket))
    judged = []
    for item, answer, status in zip(pending.texts, pending.answers, pending.statuses, strict=True):
        score = next(scores) if answer is not None else None
        if score and pending.legacy:
            score = legacy_score(score)
        reward, fault = _reward(terms, item, answer, status, score)
        # A mask that only a term needed is not kept: there is one for each completion of a step.
        mask = score.mask if score and pending.want_masks else None
        judged.append(Judged(reward, answer, mask, fault))
    return judged


def _reward(
    terms: Terms | None,
    item: AnswerText,
    answer: Answer | None,
    status: ParseStatus,
    score: Score | None,
) -> tuple[Reward, str]:
    """Return the reward of a text, and the fault of an own term or ""."""
    if terms is None or score is None or score.status is not ScoreStatus.OK:
        return combine(terms.weights if terms else {}, status, score, {}), ""
    try:
        own = terms.own_values(item.text, answer, score.mask, item.example)
    except TermFault as fault:
        return combine(terms.weights, status, score, None), str(fault)
    return combine(terms.weights, status, score, own), ""

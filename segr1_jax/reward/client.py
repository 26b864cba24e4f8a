"""The trainer's interface to SAM2: submit requests, do other work, collect scores.

    with RewardClient(config) as client:
        client.encode(image)              # ahead of the scores, while the policy generates
        ticket = client.submit(requests)  # waits only while reward.queue requests are in flight
        scores = client.collect(ticket)   # in order; every request is answered exactly once

The client distributes requests over one or several sidecars. All requests for one image go to the
same sidecar, which has the embedding of that image in its cache.
"""

import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from segr1_jax.errors import UserError
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.digests import Digests
from segr1_jax.reward.transport import prompts_block, protocol
from segr1_jax.reward.transport.channel import Channel
from segr1_jax.reward.transport.gpus import placed_here
from segr1_jax.types import Score, ScoreRequest


@dataclass(frozen=True)
class Stats:
    """Totals of all sidecars at one moment: counts, seconds of work, seconds the trainer waited.

    `at_s` is the moment itself, in seconds of `time.perf_counter`.
    """

    totals: Counter
    at_s: float

    def figures_since(self, before: "Stats") -> dict[str, float]:
        """Return the differences between two moments, in the units of the metrics.

        Restarts, quarantined and damaged requests are counted from the start of the run.
        """
        now, then = self.totals, before.totals
        done = Counter({name: now[name] - then[name] for name in now})
        return {
            "scores": done["scores"],
            "encodes": done["encodes"],
            "cache_hits": done["cache_hits"],
            "encode_ms": 1e3 * done["encode_s"] / max(1, done["encodes"]),
            "decode_ms": 1e3 * done["decode_s"] / max(1, done["scores"]),
            "busy_s": done["encode_s"] + done["decode_s"],
            "wait_s": done["wait_s"],
            "trainer_busy_s": self.at_s - before.at_s - done["wait_s"],
            "retries": done["retries"],
            "restarts": now["restarts"],
            "quarantined": now["quarantined"],
            "damaged": now["damaged"],
            "queue_depth": now["queue_depth"],
        }


@dataclass(frozen=True)
class _Ticket:
    """Scores of one `submit`, None until they arrive, and the indices sent to each channel."""

    scores: list[Score | None]
    indices_of_channel: dict[int, list[int]]


class RewardClient:
    """Client that scores masks in sidecar processes. Safe to call from several threads.

    `incidents` is the folder for reports of faults (reward/transport/incidents.py); None writes no
    report.

    Raises:
        UserError: `config.device` names GPUs that this process does not see.
    """

    def __init__(self, config: RewardConfig, incidents: Path | None = None):
        self._channels = [
            Channel(replace(config, sidecars=1, device=device), incidents)
            for device in placed_here(config).devices
        ]
        self._numbers = itertools.count(1)
        self._tickets: dict[int, _Ticket] = {}
        self._digests = Digests()

    def __enter__(self) -> "RewardClient":
        self.start()
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def start(self) -> None:
        """Start all sidecars at the same time and wait until they are up.

        Raises:
            UserError: a sidecar was not up within config.start_timeout_s; the message ends with the
                last lines of its output.
        """
        try:
            for channel in self._channels:
                channel.start()
            for channel in self._channels:
                channel.wait_until_up()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop the sidecars and free the shared memory. A second call does nothing.

        Unanswered requests remain unanswered.
        """
        for channel in self._channels:
            channel.close()

    def encode(self, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """Request the encoding of an image ahead of its scores.

        Never waits: the request is dropped when the queue is full. The image must not be changed
        afterwards.
        """
        _check_image(image)
        digest = self._digests.of(image)
        self._channels[self._home(digest)].encode(image, digest)

    def room(self) -> int:
        """Return the number of requests that can be sent without waiting for the queue."""
        return min(channel.room() for channel in self._channels)

    def submit(self, requests: Sequence[ScoreRequest]) -> int:
        """Send requests and return the ticket for their scores.

        Waits only while config.queue requests are in flight. Images and masks must not be changed
        after their first request.

        Raises:
            UserError: an image, mask or prompt cannot be scored.
            SidecarLost: a sidecar could not be restarted.
        """
        for request in requests:
            _check_request(request)
        number = next(self._numbers)
        ticket = _Ticket([None] * len(requests), {})
        self._tickets[number] = ticket
        for index, request in enumerate(requests):
            image_digest, mask_digest = map(self._digests.of, (request.image, request.mask))
            home = self._home(image_digest)
            ticket.indices_of_channel.setdefault(home, []).append(index)
            self._channels[home].score(
                request,
                image_digest,
                mask_digest,
                lambda score, index=index: _put(ticket.scores, index, score),
            )
        return number

    def collect(self, number: int) -> list[Score]:
        """Wait for the scores of one `submit` and return them in its order.

        A ticket can be collected once.

        Raises:
            SidecarLost: a sidecar could not be restarted.
        """
        ticket = self._tickets[number]
        for home, indices in ticket.indices_of_channel.items():
            self._channels[home].wait_for(
                lambda indices=indices: all(ticket.scores[index] is not None for index in indices)
            )
        return self._tickets.pop(number).scores

    def stats(self) -> Stats:
        """Return the totals up to now."""
        return Stats(
            sum((channel.totals() for channel in self._channels), Counter()), time.perf_counter()
        )

    @property
    def sidecar_pids(self) -> list[int]:
        """The current process ids of the sidecars."""
        return [channel.pid for channel in self._channels]

    def _home(self, digest: bytes) -> int:
        return int.from_bytes(digest[:8], "little") % len(self._channels)


def _put(scores: list[Score | None], index: int, score: Score) -> None:
    scores[index] = score


def _check_request(request: ScoreRequest) -> None:
    _check_image(request.image)
    mask = request.mask
    if mask.dtype != bool or mask.ndim != 2 or not mask.size or max(mask.shape) > protocol.MAX_SIDE:
        raise UserError(
            "reward request",
            expected="a bool mask (TH, TW)",
            got=f"{mask.dtype} {mask.shape}",
            remedy="pass the ground truth at its own size",
        )
    problem = next(filter(None, map(_prompt_problem, request.prompts)), None)
    if problem or len(request.prompts) > protocol.MAX_PROMPTS:
        raise UserError(
            "reward request",
            expected=f"at most {protocol.MAX_PROMPTS} prompts, each a finite box or 1 to "
            f"{prompts_block.MAX_POINTS} points labeled 0 or 1",
            got=problem or f"{len(request.prompts)} prompts",
            remedy="parse answers with segr1_jax.answer.grammar",
        )


def _prompt_problem(prompt) -> str:
    points, labels = np.asarray(prompt.points), np.asarray(prompt.labels)
    if points.shape != (len(labels), 2) or len(labels) > prompts_block.MAX_POINTS:
        return f"points {points.shape} with {len(labels)} labels"
    if prompt.box is None and not len(labels):
        return "a prompt with neither box nor points"
    if prompt.box is not None and np.shape(prompt.box) != (4,):
        return f"a box of shape {np.shape(prompt.box)}"
    numbers = [points.ravel(), [] if prompt.box is None else prompt.box]
    if not np.isfinite(np.concatenate(numbers)).all() or not np.isin(labels, (0, 1)).all():
        return f"points {points.tolist()}, labels {labels.tolist()}, box {prompt.box}"
    return ""


def _check_image(image: np.ndarray) -> None:
    if (
        image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2] != 3
        or max(image.shape) > protocol.MAX_SIDE
    ):
        raise UserError(
            "reward request",
            expected="an RGB image, uint8 (H, W, 3)",
            got=f"{image.dtype} {image.shape}",
            remedy="convert it to RGB",
        )

"""The trainer's door to the SAM2 sidecar: submit requests, do other work, collect scores.

    with RewardClient(config) as client:
        client.encode(image)                      # ahead, while the policy generates
        ticket = client.submit(requests)          # waits only while config.queue requests are in flight
        scores = client.collect(ticket)           # in order; every request answered exactly once

Blocks of the shared region are placed by content: a group of completions shares one copy of its image and of its mask.
"""

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Shaped, UInt8

from segr1_jax.errors import UserError
from segr1_jax.reward import protocol
from segr1_jax.reward.arena import Arena
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.keeper import Job, Keeper
from segr1_jax.reward.protocol import Kind, Reply, Request
from segr1_jax.types import Score, ScoreRequest, ScoreStatus

DIGEST_BYTES = 16


class RewardClient:
    """Scores masks in a sidecar process. Safe to call from several threads."""

    def __init__(self, config: RewardConfig):
        self._config = config
        self._region_fd, self._region = protocol.create_region()
        self._arena = Arena(self._region)
        self._keeper = Keeper(config, self._region_fd, self._region)
        self._sequence = itertools.count(1)
        self._tickets = itertools.count(1)
        self._scores: dict[int, list[Score | None]] = {}
        self._totals = Counter()

    def __enter__(self) -> "RewardClient":
        self.start()
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def start(self) -> None:
        """Bring the sidecar up.

        Raises:
            UserError: it did not come up within config.start_timeout_s; the message ends with its last lines.
        """
        try:
            self._keeper.start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the sidecar and give the shared memory back; unanswered requests stay so. A second call does nothing."""
        if not self._region.closed:
            self._keeper.close()
            os.close(self._region_fd)
            self._region.close()

    def encode(self, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """Have the image encoded ahead of its scores. Never waits: with a full queue the hint is dropped."""
        _check_image(image)
        with self._keeper.changed:
            if self._keeper.in_flight < self._config.queue:
                at = self._arena.put(np.ascontiguousarray(image), digest := _digest(image))
                if at is not None:
                    self._post(Kind.ENCODE, image.shape[:2], digest, [at], lambda reply: None)

    def submit(self, requests: Sequence[ScoreRequest]) -> int:
        """Send requests and return the ticket for their scores; waits only while config.queue requests are in flight.

        Raises:
            UserError: an image, mask or prompt that cannot be scored.
            SidecarLost: the sidecar could not be brought back.
        """
        for request in requests:
            _check_request(request)
        ticket = next(self._tickets)
        self._scores[ticket] = [None] * len(requests)
        digests: dict[int, bytes] = {}  # a group shares one image object: hash it once
        for index, request in enumerate(requests):
            for array in (request.image, request.mask):
                if id(array) not in digests:
                    digests[id(array)] = _digest(array)
            self._submit_one(request, digests[id(request.image)], digests[id(request.mask)], ticket, index)
        return ticket

    def collect(self, ticket: int) -> list[Score]:
        """The scores of one `submit`, in its order; waits for them. A ticket is good for one collect.

        Raises:
            SidecarLost: the sidecar could not be brought back.
        """
        with self._keeper.changed:
            self._keeper.wait_for(lambda: None not in self._scores[ticket])
            return self._scores.pop(ticket)

    def stats(self) -> dict[str, float]:
        """Totals since the start: counts, milliseconds and seconds by name."""
        with self._keeper.changed:
            totals = self._totals
            return {
                "scores": totals["scores"],
                "encodes": totals["encodes"],
                "cache_hits": totals["cache_hits"],
                "encode_ms": totals["encode_ms"] / max(1, totals["encodes"]),
                "decode_ms": totals["decode_ms"] / max(1, totals["scores"]),
                "busy_s": (totals["encode_ms"] + totals["decode_ms"]) / 1e3,
                "restarts": self._keeper.restarts,
                "quarantined": self._keeper.quarantined,
                "queue_depth": self._keeper.in_flight,
            }

    @property
    def sidecar_pid(self) -> int:
        """Process id of the sidecar at this moment."""
        return self._keeper.pid

    def _submit_one(self, request: ScoreRequest, image_digest: bytes, mask_digest: bytes, ticket: int, index: int) -> None:
        size, prompts = request.mask.shape, protocol.pack_prompts(request.prompts)

        def answer(reply: Reply | None) -> None:
            self._scores[ticket][index] = _score(reply, self._read_mask(blocks[3], size) if request.want_mask and reply else None)

        with self._keeper.changed:
            self._keeper.wait_for(lambda: self._keeper.in_flight < self._config.queue)
            while (blocks := self._place(request, image_digest, mask_digest, prompts)) is None:
                if not self._keeper.in_flight:
                    raise UserError(
                        "reward request",
                        expected=f"an image that fits {protocol.REGION_BYTES >> 20} MB with its mask",
                        got=f"{size[1]}x{size[0]} pixels",
                        remedy="scale it down",
                    )
                before = self._keeper.in_flight
                self._keeper.wait_for(lambda before=before: self._keeper.in_flight < before)
            self._post(Kind.SCORE, size, image_digest, blocks, answer, prompts=(len(request.prompts), len(prompts)))

    def _place(self, request: ScoreRequest, image_digest: bytes, mask_digest: bytes, prompts: bytes) -> list[int] | None:
        """Offsets of image, mask, prompts and, where wanted, result; None, holding nothing, while there is no room."""
        steps = [
            lambda: self._arena.put(np.ascontiguousarray(request.image), image_digest),
            lambda: self._arena.put(np.ascontiguousarray(request.mask), mask_digest),
            lambda: self._arena.put(prompts),
        ]
        if request.want_mask:
            steps.append(lambda: self._arena.reserve(protocol.packed_bytes(*request.mask.shape)))
        blocks: list[int] = []
        for step in steps:
            if (offset := step()) is None:
                for held in blocks:
                    self._arena.release(held)
                return None
            blocks.append(offset)
        return blocks

    def _post(self, kind: Kind, size, digest: bytes, blocks: list[int], answer: Callable, prompts: tuple[int, int] = (0, 0)) -> None:
        image_at, mask_at, prompts_at, result_at = blocks + [0] * (4 - len(blocks))
        request = Request(kind, next(self._sequence), digest, image_at, mask_at, prompts_at, result_at, *size, *size, *prompts)

        def done(reply: Reply | None) -> None:
            answer(reply)
            for offset in blocks:
                self._arena.release(offset)
            if reply is not None:
                self._count(kind, reply)

        self._keeper.post(Job(request, done))

    def _count(self, kind: Kind, reply: Reply) -> None:
        self._totals["scores"] += kind is Kind.SCORE
        self._totals["encodes"] += reply.encode_ms > 0
        self._totals["cache_hits"] += kind is Kind.SCORE and reply.encode_ms == 0
        self._totals["encode_ms"] += reply.encode_ms
        self._totals["decode_ms"] += reply.decode_ms

    def _read_mask(self, offset: int, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
        height, width = size
        packed = np.frombuffer(self._region[offset : offset + protocol.packed_bytes(height, width)], np.uint8)
        return np.unpackbits(packed, count=height * width).reshape(height, width).astype(bool)


def _score(reply: Reply | None, mask) -> Score:
    if reply is None:
        return Score(ScoreStatus.QUARANTINED, iou=0.0, s_measure=0.0)
    return Score(ScoreStatus.OK, reply.iou, reply.s_measure, mask)


def _digest(array: Shaped[np.ndarray, "..."]) -> bytes:
    """Content hash over shape, type and bytes."""
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.blake2b(np.ascontiguousarray(array), digest_size=DIGEST_BYTES, key=head[:64]).digest()


def _check_request(request: ScoreRequest) -> None:
    _check_image(request.image)
    if request.mask.dtype != bool or request.mask.shape != request.image.shape[:2]:
        raise UserError(
            "reward request",
            expected=f"a bool mask of the image's size {request.image.shape[:2]}",
            got=f"{request.mask.dtype} {request.mask.shape}",
            remedy="pass the ground truth at native size",
        )
    problem = next(filter(None, map(_prompt_problem, request.prompts)), None)
    if problem or len(request.prompts) > protocol.MAX_PROMPTS:
        raise UserError(
            "reward request",
            expected=f"at most {protocol.MAX_PROMPTS} prompts, each a finite box or 1 to {protocol.MAX_POINTS} points labelled 0 or 1",
            got=problem or f"{len(request.prompts)} prompts",
            remedy="parse answers with segr1_jax.answer",
        )


def _prompt_problem(prompt) -> str:
    points, labels = np.asarray(prompt.points), np.asarray(prompt.labels)
    if points.shape != (len(labels), 2) or len(labels) > protocol.MAX_POINTS:
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
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or max(image.shape) > protocol.MAX_SIDE:
        raise UserError(
            "reward request", expected="an RGB image, uint8 (H, W, 3)", got=f"{image.dtype} {image.shape}", remedy="convert it to RGB"
        )

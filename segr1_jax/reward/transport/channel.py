"""The way to one sidecar: blocks in its shared region, requests out, scores back."""

import itertools
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from segr1_jax.errors import UserError
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.transport import protocol
from segr1_jax.reward.transport.protocol import Kind, Reply, Request
from segr1_jax.reward.transport.shared_memory import Arena
from segr1_jax.reward.transport.supervisor import Job, Keeper
from segr1_jax.types import Score, ScoreRequest, ScoreStatus


class Channel:
    """Scores masks in one sidecar process. Safe to call from several threads.

    Blocks of the region are placed by content: a group of completions shares one copy of its image and of its mask.
    """

    def __init__(self, config: RewardConfig, incidents: Path | None = None):
        self._config = config
        self._region_fd, self._region = protocol.create_region()
        self._arena = Arena(self._region)
        self._keeper = Keeper(config, self._region_fd, self._region, incidents)
        self._sequence = itertools.count(1)
        self._totals = Counter()

    def start(self) -> None:
        """Begin to bring the sidecar up; `wait_until_up` returns when it is."""
        self._keeper.start()

    def wait_until_up(self) -> None:
        """Return when the sidecar is up, or raise what kept it from coming up."""
        self._keeper.wait_until_up()

    def close(self) -> None:
        """End the sidecar and give the shared memory back; unanswered requests stay so. A second call does nothing."""
        if not self._region.closed:
            self._keeper.close()
            os.close(self._region_fd)
            self._region.close()

    @property
    def pid(self) -> int:
        """Process id of the sidecar at this moment."""
        return self._keeper.pid

    def encode(self, image: UInt8[np.ndarray, "H W 3"], digest: bytes) -> None:
        """Have the image encoded ahead of its scores. Never waits: with a full queue the hint is dropped."""
        with self._keeper.changed:
            if self._keeper.in_flight < self._config.queue:
                at = self._arena.put(np.ascontiguousarray(image), digest)
                if at is not None:
                    self._post(
                        Kind.ENCODE, image.shape[:2], digest, [at], [image], lambda reply: None
                    )

    def score(
        self,
        request: ScoreRequest,
        image_digest: bytes,
        mask_digest: bytes,
        answer: Callable[[Score], None],
    ) -> None:
        """Send a request; `answer` gets its score later, once. Waits while the queue or the region is full."""
        size, prompts = request.image.shape[:2], protocol.pack_prompts(request.prompts)

        def read(reply: Reply | None) -> None:
            answer(
                _score(
                    reply, self._read_mask(blocks[3], size) if request.want_mask and reply else None
                )
            )

        with self._keeper.changed:
            self._wait_for(lambda: self._keeper.in_flight < self._config.queue)
            while (blocks := self._place(request, image_digest, mask_digest, prompts)) is None:
                if not self._keeper.in_flight:
                    raise UserError(
                        "reward request",
                        expected=f"an image that fits {protocol.REGION_BYTES >> 20} MB with its mask",
                        got=f"{size[1]}x{size[0]} pixels",
                        remedy="scale it down",
                    )
                before = self._keeper.in_flight
                self._wait_for(lambda before=before: self._keeper.in_flight < before)
            self._post(
                Kind.SCORE,
                size,
                image_digest,
                blocks,
                [request.image, request.mask, prompts],
                read,
                truth=request.mask.shape,
                prompts=(len(request.prompts), len(prompts)),
            )

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Wait for answers until `ready()`; raises SidecarLost if the sidecar could not be brought back."""
        with self._keeper.changed:
            self._wait_for(ready)

    def totals(self) -> Counter:
        """Counts and seconds since the start, and the queue's depth at this moment."""
        with self._keeper.changed:
            keeper = self._keeper
            return self._totals + Counter(
                restarts=keeper.restarts,
                quarantined=keeper.quarantined,
                damaged=keeper.damaged,
                queue_depth=keeper.in_flight,
            )

    def _wait_for(self, ready: Callable[[], bool]) -> None:
        began = time.perf_counter()
        self._keeper.wait_for(ready)
        self._totals["wait_s"] += time.perf_counter() - began

    def _place(
        self, request: ScoreRequest, image_digest: bytes, mask_digest: bytes, prompts: bytes
    ) -> list[int] | None:
        """Offsets of image, mask, prompts and, where wanted, result; None, holding nothing, while there is no room."""
        steps = [
            lambda: self._arena.put(np.ascontiguousarray(request.image), image_digest),
            lambda: self._arena.put(np.ascontiguousarray(request.mask), mask_digest),
            lambda: self._arena.put(prompts),
        ]
        if request.want_mask:
            packed = protocol.packed_bytes(*request.image.shape[:2])
            steps.append(lambda: self._arena.reserve(packed))
        blocks: list[int] = []
        for step in steps:
            if (offset := step()) is None:
                for held in blocks:
                    self._arena.release(held)
                return None
            blocks.append(offset)
        return blocks

    def _post(
        self,
        kind: Kind,
        size,
        digest: bytes,
        blocks: list[int],
        contents: list,
        answer: Callable,
        truth: tuple[int, int] = (0, 0),
        prompts: tuple[int, int] = (0, 0),
    ) -> None:
        image_at, mask_at, prompts_at, result_at = blocks + [0] * (4 - len(blocks))
        request = Request(
            kind,
            next(self._sequence),
            digest,
            image_at,
            mask_at,
            prompts_at,
            result_at,
            *size,
            *truth,
            *prompts,
            *map(self._arena.checksum, blocks[: len(contents)]),
        )

        def write_anew() -> None:
            for offset, content in zip(blocks, contents, strict=False):  # a result has no content
                content = content if isinstance(content, bytes) else np.ascontiguousarray(content)
                self._arena.write_anew(offset, content)

        def done(reply: Reply | None) -> None:
            answer(reply)
            for offset in blocks:
                self._arena.release(offset)
            if reply is not None:
                self._count(kind, reply)

        self._keeper.post(Job(request, done, write_anew))

    def _count(self, kind: Kind, reply: Reply) -> None:
        self._totals["scores"] += kind is Kind.SCORE
        self._totals["encodes"] += reply.encode_ms > 0
        self._totals["cache_hits"] += kind is Kind.SCORE and reply.encode_ms == 0
        self._totals["encode_s"] += reply.encode_ms / 1e3
        self._totals["decode_s"] += reply.decode_ms / 1e3
        self._totals["retries"] += reply.retries

    def _read_mask(self, offset: int, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
        height, width = size
        packed = np.frombuffer(
            self._region[offset : offset + protocol.packed_bytes(height, width)], np.uint8
        )
        return np.unpackbits(packed, count=height * width).reshape(height, width).astype(bool)


def _score(reply: Reply | None, mask) -> Score:
    if reply is None:
        return Score(ScoreStatus.QUARANTINED, iou=0.0, s_measure=0.0)
    return Score(ScoreStatus.OK, reply.iou, reply.s_measure, mask)

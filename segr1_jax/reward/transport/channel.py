"""Channel to one sidecar: write blocks to its shared region, send requests, return scores."""

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
from segr1_jax.reward.digests import DIGEST_BYTES
from segr1_jax.reward.transport import protocol
from segr1_jax.reward.transport.jobs import Job
from segr1_jax.reward.transport.prompts_block import pack_prompts
from segr1_jax.reward.transport.protocol import Kind, Reply, Request
from segr1_jax.reward.transport.shared_memory import Arena
from segr1_jax.reward.transport.supervisor import Supervisor
from segr1_jax.types import Score, ScoreRequest, ScoreStatus


class Channel:
    """Channel that scores masks in one sidecar process. Safe to call from several threads.

    Blocks of the region are keyed by content: the completions of a group share one copy of their
    image and one of their mask.
    """

    def __init__(self, config: RewardConfig, incidents: Path | None = None):
        self._config = config
        self._region_fd, self._region = protocol.create_region()
        self._arena = Arena(self._region)
        self._supervisor = Supervisor(config, self._region_fd, self._region, incidents)
        self._sequence = itertools.count(1)
        self._totals = Counter()

    def start(self) -> None:
        """Begin to start the sidecar; `wait_until_up` returns when it is up."""
        self._supervisor.start()

    def wait_until_up(self) -> None:
        """Return when the sidecar is up, or raise the error that kept it from starting."""
        self._supervisor.wait_until_up()

    def close(self) -> None:
        """Stop the sidecar and free the shared memory. A second call does nothing.

        Unanswered requests remain unanswered.
        """
        if not self._region.closed:
            self._supervisor.close()
            os.close(self._region_fd)
            self._region.close()

    @property
    def pid(self) -> int:
        """The current process id of the sidecar."""
        return self._supervisor.pid

    def encode(self, image: UInt8[np.ndarray, "H W 3"], digest: bytes) -> None:
        """Request the encoding of an image ahead of its scores.

        Never waits: the request is dropped when the queue or the region is full.
        """
        with self._supervisor.changed:
            if self._supervisor.in_flight < self._config.queue:
                at = self._arena.put(np.ascontiguousarray(image), digest)
                if at is not None:
                    self._post(
                        Kind.ENCODE, image.shape[:2], digest, [at], [image], lambda reply: None
                    )

    def room(self) -> int:
        """Return the number of requests that can be sent without waiting for the queue."""
        with self._supervisor.changed:
            return max(0, self._config.queue - self._supervisor.in_flight)

    def score(
        self,
        request: ScoreRequest,
        image_digest: bytes,
        mask_digest: bytes,
        answer: Callable[[Score], None],
    ) -> None:
        """Send a request and return; `answer` is called later, once, with its score.

        Waits while the queue or the region is full.
        """
        size, prompts = request.image.shape[:2], pack_prompts(request.prompts)

        def read(reply: Reply | None) -> None:
            # blocks[3] is the result mask: `_place` returns image, mask, prompts, result.
            mask = self._read_mask(blocks[3], size) if request.want_mask and reply else None
            answer(_score(reply, mask))

        with self._supervisor.changed:
            self._wait_for(lambda: self._supervisor.in_flight < self._config.queue)
            while (blocks := self._place(request, image_digest, mask_digest, prompts)) is None:
                if not self._supervisor.in_flight:
                    # The region is empty, so waiting would not make room.
                    raise UserError(
                        "reward request",
                        expected=f"an image that fits into {protocol.REGION_BYTES >> 20} MB "
                        "together with its mask",
                        got=f"{size[1]}x{size[0]} pixels",
                        remedy="scale it down",
                    )
                before = self._supervisor.in_flight
                self._wait_for(lambda before=before: self._supervisor.in_flight < before)
            self._post(
                Kind.SCORE,
                size,
                image_digest,
                blocks,
                [request.image, request.mask, prompts],
                read,
                truth=request.mask.shape,
                truth_digest=mask_digest,
                prompts=(len(request.prompts), len(prompts)),
            )

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Wait for scores until `ready()`.

        Raises:
            SidecarLost: the sidecar could not be restarted.
        """
        with self._supervisor.changed:
            self._wait_for(ready)

    def totals(self) -> Counter:
        """Return counts and seconds since the start, and the current depth of the queue."""
        with self._supervisor.changed:
            supervisor = self._supervisor
            return self._totals + Counter(
                restarts=supervisor.restarts,
                quarantined=supervisor.quarantined,
                damaged=supervisor.damaged,
                queue_depth=supervisor.in_flight,
            )

    def _wait_for(self, ready: Callable[[], bool]) -> None:
        began = time.perf_counter()
        self._supervisor.wait_for(ready)
        self._totals["wait_s"] += time.perf_counter() - began

    def _place(
        self, request: ScoreRequest, image_digest: bytes, mask_digest: bytes, prompts: bytes
    ) -> list[int] | None:
        """Place image, mask, prompts and, if wanted, the result mask; return their offsets.

        Returns None, and holds no block, if there is no room for all of them.
        """
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
        truth_digest: bytes = bytes(DIGEST_BYTES),
        prompts: tuple[int, int] = (0, 0),
    ) -> None:
        # `blocks` are image, mask, prompts, result; an encode request has the image only.
        image_at, mask_at, prompts_at, result_at = blocks + [0] * (4 - len(blocks))
        sums = [self._arena.checksum(offset) for offset in blocks[: len(contents)]]
        image_sum, mask_sum, prompts_sum = sums + [0] * (3 - len(sums))
        request = Request(
            kind=kind,
            seq=next(self._sequence),
            digest=digest,
            image_at=image_at,
            mask_at=mask_at,
            prompts_at=prompts_at,
            result_at=result_at,
            height=size[0],
            width=size[1],
            mask_height=truth[0],
            mask_width=truth[1],
            prompts=prompts[0],
            prompts_bytes=prompts[1],
            image_sum=image_sum,
            mask_sum=mask_sum,
            prompts_sum=prompts_sum,
            mask_digest=truth_digest,
        )

        def rewrite() -> None:
            # A result block has no content, so `contents` may be one shorter than `blocks`.
            for offset, content in zip(blocks, contents, strict=False):
                content = content if isinstance(content, bytes) else np.ascontiguousarray(content)
                self._arena.rewrite(offset, content)

        def done(reply: Reply | None) -> None:
            answer(reply)
            for offset in blocks:
                self._arena.release(offset)
            if reply is not None:
                self._count(kind, reply)

        self._supervisor.post(Job(request, done, rewrite))

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

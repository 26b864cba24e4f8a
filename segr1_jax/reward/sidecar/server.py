"""Program of the sidecar: one SAM2, one socket, one request at a time.

    python -m segr1_jax.reward.sidecar.server SETTINGS_JSON

reward/transport/process.py starts it with two inherited descriptors. It ends when the trainer ends:
the kernel sends SIGKILL when the thread that started it dies, and a closed socket ends its loop. A
thread increments the heartbeats in the shared region, so that the trainer can distinguish a stopped
process from a busy one. On SIGUSR1 it writes the stacks of all threads to stderr.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib.metadata
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segr1_jax import __version__
from segr1_jax.reward.resize import resize_mask
from segr1_jax.reward.scores import capped_size, iou, resize_nearest, s_measure
from segr1_jax.reward.sidecar.tier import Tier
from segr1_jax.reward.transport import prompts_block, protocol
from segr1_jax.reward.transport.protocol import Hello, Kind, Reply, Request

PR_SET_PDEATHSIG = 1
BEAT_S = 0.25
TRUTH_BYTES = 64 << 20  # 64 truths of 1024 x 1024 pixels


class Settings(NamedTuple):
    """Settings of a sidecar: the inherited descriptors, its parent, the model and its limits."""

    socket_fd: int
    region_fd: int
    parent_pid: int
    config: str
    checkpoint: str
    postprocessing: bool
    device: str
    dtype: str
    threads: int
    memory_fraction: float
    decode_batch: int
    max_side: int
    cache_bytes: int
    host_cache_bytes: int
    cache_dir: str
    cache_dir_bytes: int


class Notes:
    """Lines for the log of the trainer, each sent with one of the next replies."""

    def __init__(self):
        self._lines: deque[str] = deque()

    def add(self, line: str) -> None:
        """Keep a line until `take`, and write it to stderr."""
        print(line, file=sys.stderr, flush=True)
        self._lines.append(line)

    def take(self) -> str:
        """Remove and return the oldest line, or return an empty string."""
        return self._lines.popleft() if self._lines else ""


class DamagedBlock(Exception):
    """A block of the region does not match the checksum in its request."""


class Server:
    """Server of requests.

    A reply depends on the bytes of its request alone, never on the cache or the queue.
    """

    def __init__(self, sam2, region, cache, max_side: int, notes: Notes | None = None):
        self._sam2 = sam2
        self._region = region
        self._cache = cache
        self._truths: Tier[np.ndarray] = Tier(TRUTH_BYTES)
        self._max_side = max_side
        self._notes = notes or Notes()
        self._bytes = np.frombuffer(region, np.uint8)

    def serve(self, sock: socket.socket) -> None:
        """Answer requests until the trainer closes the socket."""
        while record := sock.recv(protocol.RECORD_BYTES * 2):
            request = protocol.unpack_request(record, len(self._region))
            protocol.set_working(self._region, request.seq)
            try:
                reply = self.answer(request)
            except DamagedBlock:
                reply = Reply(request.seq, 0.0, 0.0, 0.0, 0.0, damaged=True)
            reply = protocol.pack_reply(reply._replace(note=self._notes.take()))
            protocol.set_working(self._region, 0)
            sock.send(reply)

    def answer(self, request: Request) -> Reply:
        """Return the reply to a request.

        If the device runs out of memory, the cached embeddings are moved off it and the request is
        computed a second time.
        """
        from torch import OutOfMemoryError

        retries = self._sam2.retries
        try:
            reply = self._answer(request)
        except OutOfMemoryError:
            reply = None
        # Outside the handler: the exception keeps the tensors of the failed call alive.
        if reply is None:
            self._sam2.note_retry(
                f"a {request.width}x{request.height} image beside the cached ones"
            )
            self._cache.leave_device()
            reply = self._answer(request)
        return reply._replace(retries=self._sam2.retries - retries)

    def _answer(self, request: Request) -> Reply:
        began = time.perf_counter()
        embedding = self._cache.get(request.digest)
        encode_ms = 0.0
        if embedding is None:
            image = self._checked(
                request.image_sum, request.image_at, request.height, request.width, 3
            )
            embedding = self._sam2.encode(image)
            self._cache.put(request.digest, embedding)
            encode_ms = (time.perf_counter() - began) * 1e3
        scores = self._score(request, embedding) if request.kind is Kind.SCORE else (0.0, 0.0, 0)
        total_ms = (time.perf_counter() - began) * 1e3
        return Reply(
            seq=request.seq,
            iou=scores[0],
            s_measure=scores[1],
            encode_ms=encode_ms,
            decode_ms=total_ms - encode_ms,
            result_sum=scores[2],
        )

    def _score(self, request: Request, embedding) -> tuple[float, float, int]:
        """Return IoU, S-measure and the checksum of the result mask (0 if it is not wanted)."""
        block = self._checked(
            request.prompts_sum, request.prompts_at, request.prompts_bytes
        ).tobytes()
        prompts = prompts_block.unpack_prompts(block, request.prompts)
        native = (request.height, request.width)
        # Image and truth may differ in size: each is capped alone, then the mask is resized to the
        # truth.
        truth = self._truth(request)
        mask = self._sam2.decode(embedding, prompts, capped_size(native, self._max_side))
        result_sum = 0
        if request.result_at:
            packed = np.packbits(resize_nearest(mask, native))
            self._block(request.result_at, packed.size)[:] = packed
            result_sum = protocol.checksum(packed)
        mask = resize_mask(mask, truth.shape)
        return iou(mask, truth), s_measure(mask, truth), result_sum

    def _truth(self, request: Request) -> np.ndarray:
        """Return the ground truth at the size at which it is scored.

        The completions of a group share it. For a photo of 6 megapixels, to read, verify and resize
        it takes 3 ms of a CPU, to score a mask against it .4 ms.
        """
        truth = self._truths.take(request.mask_digest)
        if truth is None:
            sides = (request.mask_height, request.mask_width)
            native = self._checked(request.mask_sum, request.mask_at, *sides) != 0
            truth = resize_nearest(native, capped_size(sides, self._max_side))
        self._truths.put(request.mask_digest, truth)
        return truth

    def _checked(self, expected_sum: int, offset: int, *shape: int) -> np.ndarray:
        """Return a verified copy of a block.

        The copy is made first, so that the bytes cannot change after the check.
        """
        block = self._block(offset, *shape).copy()
        if protocol.checksum(block) != expected_sum:
            raise DamagedBlock
        return block

    def _block(self, offset: int, *shape: int) -> np.ndarray:
        return self._bytes[offset : offset + int(np.prod(shape))].reshape(shape)


def main() -> None:
    """Load SAM2, send the hello and answer requests until the trainer ends."""
    settings = Settings(**json.loads(sys.argv[1]))
    _die_with_parent(settings.parent_pid)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    sock = socket.socket(fileno=settings.socket_fd)
    region = protocol.open_region(settings.region_fd)
    notes = Notes()
    sam2, cache = _load(settings, notes)
    # The duration of the first encode scales the deadline of a request (transport/deadlines.py).
    began = time.perf_counter()
    sam2.encode(np.zeros((sam2.model.image_size, sam2.model.image_size, 3), np.uint8))
    encode_s = time.perf_counter() - began
    threading.Thread(target=_beat, args=(region,), name="heartbeat", daemon=True).start()
    hello = Hello(__version__, importlib.metadata.version("sam2"), encode_s=encode_s)
    sock.send(protocol.pack_hello(hello))
    Server(sam2, region, cache, settings.max_side, notes).serve(sock)


def _beat(region) -> None:
    while True:
        protocol.beat(region)
        time.sleep(BEAT_S)


def _die_with_parent(parent_pid: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The parent may have ended before prctl took effect.
    if os.getppid() != parent_pid:
        sys.exit("the trainer ended before its sidecar was up")
    # Ctrl-C and a scheduler signal the whole process group: the trainer handles these signals.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _load(settings: Settings, notes: Notes):
    import torch

    from segr1_jax.reward.sidecar.embeddings import EmbeddingCache
    from segr1_jax.reward.sidecar.model_files import build_model
    from segr1_jax.reward.sidecar.sam2_model import Sam2

    torch.set_num_threads(settings.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # A debugging aid that costs time; SAM2 does not read uninitialized memory.
    torch.utils.deterministic.fill_uninitialized_memory = False
    _limit_memory(settings)
    model = build_model(
        settings.config, settings.checkpoint or None, postprocessing=settings.postprocessing
    )
    sam2 = Sam2(model, settings.device, settings.dtype, settings.decode_batch)
    files = _files(settings, sam2, notes)
    return sam2, EmbeddingCache(
        settings.device, settings.cache_bytes, settings.host_cache_bytes, files
    )


def _limit_memory(settings: Settings) -> None:
    """Limit SAM2 to its share of a GPU; JAX has the remainder."""
    import torch

    device = torch.device(settings.device)
    if settings.memory_fraction and device.type == "cuda":
        # torch requires an index here, unlike everywhere else.
        torch.cuda.set_per_process_memory_fraction(settings.memory_fraction, device.index or 0)


def _files(settings: Settings, sam2, notes: Notes):
    from segr1_jax.reward.sidecar.embeddings import EmbeddingFiles, fingerprint, platform_facts
    from segr1_jax.reward.sidecar.model_files import model_tree

    if not settings.cache_dir:
        return None
    mark = fingerprint(
        sam2.model,
        model_tree(settings.config, postprocessing=settings.postprocessing),
        settings.dtype,
        *platform_facts(sam2.device, settings.threads),
        __version__,
        importlib.metadata.version("sam2"),
    )
    return EmbeddingFiles(Path(settings.cache_dir), mark, settings.cache_dir_bytes, notes.add)


if __name__ == "__main__":
    main()

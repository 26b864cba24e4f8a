"""The sidecar's program: one SAM2, one socket, one request at a time.

    python -m segr1_jax.reward.sidecar SETTINGS_JSON     (started by reward.supervisor, with two inherited descriptors)

Ends when the trainer ends: the kernel sends SIGKILL when the starting thread dies, and a closed socket ends the loop.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import signal
import socket
import sys
import time
from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from segr1_jax import __version__
from segr1_jax.reward import protocol
from segr1_jax.reward.protocol import Hello, Kind, Reply, Request
from segr1_jax.reward.scores import capped_size, iou, resize_nearest, s_measure

PR_SET_PDEATHSIG = 1


class Settings(NamedTuple):
    """What a sidecar is started with: the inherited descriptors, its parent, the model and its limits."""

    socket_fd: int
    region_fd: int
    parent_pid: int
    config: str
    checkpoint: str
    postprocessing: bool
    device: str
    dtype: str
    threads: int
    max_side: int
    cache_bytes: int


class EmbeddingCache:
    """Embeddings by content hash, the least recently used dropped first, under a budget in bytes."""

    def __init__(self, budget: int):
        self._budget, self._held = budget, 0
        self._embeddings = OrderedDict()

    def get(self, digest: bytes):
        """The embedding, or None."""
        if digest in self._embeddings:
            self._embeddings.move_to_end(digest)
        return self._embeddings.get(digest)

    def put(self, digest: bytes, embedding) -> None:
        """Keep it, unless it is larger than the whole budget."""
        if embedding.nbytes > self._budget:
            return
        self._embeddings[digest] = embedding
        self._held += embedding.nbytes
        while self._held > self._budget:
            self._held -= self._embeddings.popitem(last=False)[1].nbytes


class Server:
    """Answers requests; a reply depends on its request's bytes alone, never on what else is cached or queued."""

    def __init__(self, sam2, region, cache_bytes: int, max_side: int):
        self._sam2, self._region, self._max_side = sam2, region, max_side
        self._bytes = np.frombuffer(region, np.uint8)
        self._cache = EmbeddingCache(cache_bytes)

    def serve(self, sock: socket.socket) -> None:
        """Answer until the other side closes the socket."""
        while record := sock.recv(protocol.RECORD_BYTES * 2):
            request = protocol.unpack_request(record, len(self._region))
            protocol.set_working(self._region, request.seq)
            reply = protocol.pack_reply(self.answer(request))
            protocol.set_working(self._region, 0)
            sock.send(reply)

    def answer(self, request: Request) -> Reply:
        began = time.perf_counter()
        embedding = self._cache.get(request.digest)
        encode_ms = 0.0
        if embedding is None:
            embedding = self._sam2.encode(self._block(request.image_at, request.height, request.width, 3).copy())
            self._cache.put(request.digest, embedding)
            encode_ms = (time.perf_counter() - began) * 1e3
        scores = self._score(request, embedding) if request.kind is Kind.SCORE else (0.0, 0.0)
        total_ms = (time.perf_counter() - began) * 1e3
        return Reply(request.seq, *scores, encode_ms=encode_ms, decode_ms=total_ms - encode_ms)

    def _score(self, request: Request, embedding) -> tuple[float, float]:
        block = self._block(request.prompts_at, request.prompts_bytes).tobytes()
        prompts = protocol.unpack_prompts(block, request.prompts)
        size = capped_size((request.height, request.width), self._max_side)
        truth = resize_nearest(self._block(request.mask_at, request.height, request.width) != 0, size)
        mask = self._sam2.decode(embedding, prompts, size)
        if request.result_at:
            packed = np.packbits(resize_nearest(mask, (request.result_height, request.result_width)))
            self._block(request.result_at, packed.size)[:] = packed
        return iou(mask, truth), s_measure(mask, truth)

    def _block(self, offset: int, *shape: int) -> np.ndarray:
        return self._bytes[offset : offset + int(np.prod(shape))].reshape(shape)


def main() -> None:
    settings = Settings(**json.loads(sys.argv[1]))
    _die_with_parent(settings.parent_pid)
    sock = socket.socket(fileno=settings.socket_fd)
    region = protocol.open_region(settings.region_fd)
    sam2 = _load(settings)
    sock.send(protocol.pack_hello(Hello(__version__, importlib.metadata.version("sam2"))))
    Server(sam2, region, settings.cache_bytes, settings.max_side).serve(sock)


def _die_with_parent(parent_pid: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # the parent was gone before the kernel knew
        sys.exit("the trainer ended before its sidecar was up")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's to answer


def _load(settings: Settings):
    import torch

    from segr1_jax.reward.sam2_model import Sam2, build_model

    torch.set_num_threads(settings.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    model = build_model(settings.config, settings.checkpoint or None, postprocessing=settings.postprocessing)
    return Sam2(model, settings.device, settings.dtype)


if __name__ == "__main__":
    main()

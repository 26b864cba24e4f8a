"""Image embeddings by content hash: on the device, then in host memory, then (where configured) on disk."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path

import torch

from segr1_jax.reward.sam2_model import Embedding


class Tier:
    """Embeddings under a budget in bytes, the least recently put first to go."""

    def __init__(self, budget: int):
        self._budget, self._held = budget, 0
        self._embeddings: OrderedDict[bytes, Embedding] = OrderedDict()

    def take(self, digest: bytes) -> Embedding | None:
        """Remove and return it, or None."""
        embedding = self._embeddings.pop(digest, None)
        self._held -= embedding.nbytes if embedding else 0
        return embedding

    def put(self, digest: bytes, embedding: Embedding) -> list[tuple[bytes, Embedding]]:
        """Add it; returns what had to go for it, which is itself where it exceeds the whole budget."""
        self._embeddings[digest] = embedding
        self._held += embedding.nbytes
        gone = []
        while self._held > self._budget:
            digest, old = self._embeddings.popitem(last=False)
            self._held -= old.nbytes
            gone.append((digest, old))
        return gone

    def empty(self) -> list[tuple[bytes, Embedding]]:
        """Remove and return everything."""
        gone, self._held = list(self._embeddings.items()), 0
        self._embeddings.clear()
        return gone


class EmbeddingCache:
    """Three tiers, each optional (a budget of 0, no folder). What a tier has no room for moves to the next."""

    def __init__(
        self,
        device: str,
        device_bytes: int,
        host_bytes: int = 0,
        files: EmbeddingFiles | None = None,
    ):
        self._name, self._device, self._host, self._files = (
            device,
            Tier(device_bytes),
            Tier(host_bytes),
            files,
        )

    def get(self, digest: bytes) -> Embedding | None:
        """The embedding on the device, or None."""
        found = (
            self._device.take(digest)
            or self._host.take(digest)
            or (self._files.read(digest) if self._files else None)
        )
        if found is None:
            return None
        embedding = found.to(self._name)
        self._keep(digest, embedding)
        return embedding

    def put(self, digest: bytes, embedding: Embedding) -> None:
        """Keep a new embedding."""
        self._keep(digest, embedding)
        if self._files:
            self._files.write(digest, embedding)

    def leave_device(self) -> None:
        """Move everything off the device: its memory is needed."""
        self._to_host(self._device.empty())

    def _keep(self, digest: bytes, embedding: Embedding) -> None:
        self._to_host(self._device.put(digest, embedding))

    def _to_host(self, embeddings: list[tuple[bytes, Embedding]]) -> None:
        for digest, embedding in embeddings:
            self._host.put(digest, embedding.to("cpu"))


class EmbeddingFiles:
    """Embeddings on disk, for sets that are gone through more than once where encoding is slow (hosts without a GPU).

    One folder per `fingerprint` of model, device and versions: an embedding is never read by anything that would compute another.
    Several sidecars may share a folder: files appear whole, under their content's name. The longest unread go first.
    """

    def __init__(self, folder: Path, fingerprint: str, budget: int):
        self._folder, self._budget = folder / fingerprint, budget
        self._folder.mkdir(parents=True, exist_ok=True)
        self._held = sum(size for _, size, _ in self._listing())

    def read(self, digest: bytes) -> Embedding | None:
        """The embedding in host memory, or None; a damaged file is named, removed and computed anew."""
        path = self._path(digest)
        try:
            held = torch.load(path, map_location="cpu", weights_only=True)
            os.utime(path)
            return Embedding(tuple(held["features"]), tuple(held["size"]))
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001 (torch.load names no class for what a damaged file may raise)
            print(
                f"embedding {path} is damaged ({type(error).__name__}: {error}); it is made anew",
                file=sys.stderr,
                flush=True,
            )
            path.unlink(missing_ok=True)
            return None

    def write(self, digest: bytes, embedding: Embedding) -> None:
        """Store it under a temporary name, then rename."""
        on_host = embedding.to("cpu")
        with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
            torch.save({"features": list(on_host.features), "size": list(on_host.size)}, file)
        os.replace(file.name, self._path(digest))
        self._held += self._path(digest).stat().st_size
        if self._held > self._budget:
            self._trim()

    def _trim(self) -> None:
        listing = sorted(self._listing())
        self._held = sum(size for _, size, _ in listing)
        for _, size, path in listing:
            if self._held <= self._budget:
                return
            path.unlink(missing_ok=True)
            self._held -= size

    def _listing(self) -> list[tuple[float, int, Path]]:
        """(last read, bytes, path) of every file."""
        found = []
        for path in self._folder.iterdir():
            try:
                stat = path.stat()
            except FileNotFoundError:  # another sidecar has just removed it
                continue
            found.append((stat.st_mtime, stat.st_size, path))
        return found

    def _path(self, digest: bytes) -> Path:
        return self._folder / f"{digest.hex()}.pt"


def fingerprint(model: torch.nn.Module, *facts: str) -> str:
    """Hash of a model's weights and of `facts` that its results depend on (device, dtype, versions)."""
    found = hashlib.blake2b(repr(facts).encode(), digest_size=12)
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()

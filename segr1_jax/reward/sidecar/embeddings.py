"""Cache of image embeddings by content hash: on the device, in host memory, optionally on disk."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision

from segr1_jax.common.files import replacing
from segr1_jax.reward.sidecar.sam2_model import Embedding
from segr1_jax.reward.sidecar.tier import Tier

# A process lists the folder again after it has written this share of the budget.
RECOUNT = 1 / 64
_SUM = struct.Struct("<I")


class EmbeddingCache:
    """Cache in three tiers, each of them optional (a budget of 0, no folder).

    Embeddings that a tier has no room for move to the next one.
    """

    def __init__(
        self,
        device: str,
        device_bytes: int,
        host_bytes: int = 0,
        files: EmbeddingFiles | None = None,
    ):
        self._name = device
        self._device: Tier[Embedding] = Tier(device_bytes)
        self._host: Tier[Embedding] = Tier(host_bytes)
        self._files = files

    def get(self, digest: bytes) -> Embedding | None:
        """Return the embedding on the device, or None."""
        cached = (
            self._device.take(digest)
            or self._host.take(digest)
            or (self._files.read(digest) if self._files else None)
        )
        if cached is None:
            return None
        embedding = cached.to(self._name)
        self._keep(digest, embedding)
        return embedding

    def put(self, digest: bytes, embedding: Embedding) -> None:
        """Store a new embedding."""
        self._keep(digest, embedding)
        if self._files:
            self._files.write(digest, embedding)

    def leave_device(self) -> None:
        """Move everything off the device, to free its memory."""
        self._to_host(self._device.empty())

    def _keep(self, digest: bytes, embedding: Embedding) -> None:
        self._to_host(self._device.put(digest, embedding))

    def _to_host(self, embeddings: list[tuple[bytes, Embedding]]) -> None:
        for digest, embedding in embeddings:
            self._host.put(digest, embedding.to("cpu"))


class EmbeddingFiles:
    """Embeddings on disk, for data sets read more than once on hosts where encoding is slow.

    There is one folder per `fingerprint` of model, device and versions, so a process never reads an
    embedding that it would compute differently. Several sidecars may share a folder: files appear
    complete, named by the digest of their image, with a checksum in front. The least recently read
    files are deleted first. After a disk error, which `note` reports, the folder is not used again.

    A sidecar does not know how many others share the folder (other hosts may as well), so each one
    lists the folder again whenever it has written RECOUNT of the budget. Until then, every other
    sidecar may exceed the budget by that share.
    """

    def __init__(self, folder: Path, fingerprint: str, budget: int, note: Callable[[str], None]):
        self._folder, self._budget, self._note = folder / fingerprint, budget, note
        self._folder.mkdir(parents=True, exist_ok=True)
        self._uncounted = 0  # bytes written since the folder was last counted
        self._is_on = True

    def read(self, digest: bytes) -> Embedding | None:
        """Return the embedding in host memory, or None.

        A damaged file is reported and removed; its embedding is then computed again.
        """
        path = self._path(digest)
        if not self._is_on:
            return None
        try:
            content = path.read_bytes()
            if _sum(digest, content[_SUM.size :]) != content[: _SUM.size]:
                self._note(f"embedding {path.name} is damaged; computing it again")
                path.unlink(missing_ok=True)
                return None
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._switch_off(error)
            return None
        state = torch.load(io.BytesIO(content[_SUM.size :]), map_location="cpu", weights_only=True)
        return Embedding(tuple(state["features"]), tuple(state["size"]))

    def write(self, digest: bytes, embedding: Embedding) -> None:
        """Write an embedding under a temporary name, then rename the file."""
        if not self._is_on:
            return
        on_host, payload = embedding.to("cpu"), io.BytesIO()
        torch.save({"features": list(on_host.features), "size": list(on_host.size)}, payload)
        content = payload.getvalue()
        try:
            with replacing(self._path(digest), durable=False) as file:
                file.write(_sum(digest, content) + content)
            self._uncounted += _SUM.size + len(content)
            if self._uncounted > self._budget * RECOUNT:
                self._trim()
        except OSError as error:
            self._switch_off(error)

    def _switch_off(self, error: OSError) -> None:
        self._is_on = False
        self._note(f"reward.cache_dir is off until the next start: {error.strerror or error}")

    def _trim(self) -> None:
        listing = sorted(self._listing())
        held, self._uncounted = sum(size for _, size, _ in listing), 0
        for _, size, path in listing:
            if held <= self._budget:
                return
            path.unlink(missing_ok=True)
            held -= size

    def _listing(self) -> list[tuple[float, int, Path]]:
        """Return (time of the last read, bytes, path) of every file."""
        listing = []
        for path in self._folder.iterdir():
            try:
                stat = path.stat()
            except FileNotFoundError:  # another sidecar has just removed it
                continue
            listing.append((stat.st_mtime, stat.st_size, path))
        return listing

    def _path(self, digest: bytes) -> Path:
        return self._folder / f"{digest.hex()}.pt"


def _sum(digest: bytes, content: bytes) -> bytes:
    """Return the CRC-32 of the content of a file and of the digest of its image."""
    return _SUM.pack(zlib.crc32(content, zlib.crc32(digest)))


def platform_facts(device: torch.device, threads: int) -> tuple[str, ...]:
    """Return the facts besides the model that change the last bits of an embedding.

    Versions, device and threads select the kernels and the order of sums.
    """
    versions = (torch.__version__, torchvision.__version__)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return *versions, name, str(torch.backends.cudnn.version()), "resized on the device"
    return *versions, "cpu", torch.backends.cpu.get_cpu_capability(), str(threads)


def fingerprint(model: torch.nn.Module, tree: dict, *facts: str) -> str:
    """Return a hash of a model's weights, its resolved YAML and the `facts` that change results."""
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=12)
    digest.update(json.dumps(tree, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

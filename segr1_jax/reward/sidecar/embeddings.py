"""Image embeddings by content hash: on the device, then in host memory, then (where configured) on disk."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision

from segr1_jax.common.files import replacing
from segr1_jax.reward.sidecar.sam2_model import Embedding

RECOUNT = 1 / 64  # of the budget
_SUM = struct.Struct("<I")


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
    Several sidecars may share a folder: files appear whole, under their content's name, with a checksum in front. The longest unread
    go first. Where the disk fails, `note` gets one line and the files are used no more.

    How many sidecars share the folder is not known to any (hosts may share it too), so each counts the folder anew whenever it has
    itself written RECOUNT of the budget: every further sidecar may exceed the budget by that share, for as long.
    """

    def __init__(self, folder: Path, fingerprint: str, budget: int, note: Callable[[str], None]):
        self._folder, self._budget, self._note = folder / fingerprint, budget, note
        self._folder.mkdir(parents=True, exist_ok=True)
        self._uncounted = 0  # bytes written since the folder was last counted
        self._is_on = True

    def read(self, digest: bytes) -> Embedding | None:
        """The embedding in host memory, or None; a damaged file is noted, removed and computed anew."""
        path = self._path(digest)
        if not self._is_on:
            return None
        try:
            content = path.read_bytes()
            if _sum(digest, content[_SUM.size :]) != content[: _SUM.size]:
                self._note(f"embedding {path.name} is damaged; it is made anew")
                path.unlink(missing_ok=True)
                return None
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._switch_off(error)
            return None
        held = torch.load(io.BytesIO(content[_SUM.size :]), map_location="cpu", weights_only=True)
        return Embedding(tuple(held["features"]), tuple(held["size"]))

    def write(self, digest: bytes, embedding: Embedding) -> None:
        """Store it under a temporary name, then rename."""
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


def _sum(digest: bytes, content: bytes) -> bytes:
    """CRC-32 of a file's content and of the image it belongs to."""
    return _SUM.pack(zlib.crc32(content, zlib.crc32(digest)))


def platform_facts(device: torch.device, threads: int) -> tuple[str, ...]:
    """What decides the last bits of an embedding besides the model: kernels and order of sums."""
    versions = (torch.__version__, torchvision.__version__)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return *versions, name, str(torch.backends.cudnn.version())
    return *versions, "cpu", torch.backends.cpu.get_cpu_capability(), str(threads)


def fingerprint(model: torch.nn.Module, tree: dict, *facts: str) -> str:
    """Hash of a model's weights, of its resolved YAML and of `facts` that its results depend on."""
    found = hashlib.blake2b(repr(facts).encode(), digest_size=12)
    found.update(json.dumps(tree, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()

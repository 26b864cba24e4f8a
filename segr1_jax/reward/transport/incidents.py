"""What is kept of a run's misfortunes: requests that killed a sidecar, who was doing what when a deadline passed, and whatever arrays
others bring (batches of skipped updates)."""

import faulthandler
import io
import logging
import mmap
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segr1_jax.reward.transport.protocol import Kind, Request

MAX_FILES = 20  # per kind and folder: a run that goes wrong all night must not fill the disk

log = logging.getLogger(__name__)


class Incidents:
    """Writes into a folder (mode 0700, files 0600: they hold training data), at most MAX_FILES of a kind; without a folder only logs."""

    def __init__(self, folder: Path | None):
        self._folder = folder

    def quarantine(self, request: Request, region: mmap.mmap, obituary: str) -> None:
        """Keep a request that is left out: image, mask, prompts and why (`obituary`), as one .npz.

        `numpy.load` reads it; `protocol.unpack_prompts(prompts.tobytes(), count)` gives its prompts.
        """
        reason = obituary.partition("\n")[0]
        log.error("%s is left out of its group: %s", describe(request), reason)

        def block(offset: int, *shape: int) -> np.ndarray:
            length = int(np.prod(shape))
            return np.frombuffer(region[offset : offset + length], np.uint8).reshape(shape)

        content = {
            "image": block(request.image_at, request.height, request.width, 3),
            "obituary": np.array(obituary),
        }
        if request.kind is Kind.SCORE:
            content |= {
                "mask": block(request.mask_at, request.mask_height, request.mask_width) != 0,
                "prompts": block(request.prompts_at, request.prompts_bytes),
                "count": np.array(request.prompts),
            }
        self.keep("quarantined", content)

    def keep(self, kind: str, arrays: Mapping[str, np.ndarray]) -> Path | None:
        """Keep arrays as one .npz, which `numpy.load` reads; where it lies, or None where it was not kept (the log says why)."""
        archive = io.BytesIO()
        np.savez_compressed(archive, **arrays)
        return self._write(kind, ".npz", archive.getvalue())

    def missed_deadline(self, what: str, sidecar_stacks: str) -> None:
        """Log what was waited for, and keep the stacks of both processes."""
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            ours = file.read().decode(errors="replace")
        path = self._write(
            "stacks", ".txt", f"{what}\n\nTrainer:\n{ours}\nSidecar:\n{sidecar_stacks}\n".encode()
        )
        log.warning(
            "%s; stacks of both processes: %s",
            what,
            path or f"\nsidecar:\n{sidecar_stacks}\ntrainer:\n{ours}",
        )

    def note(self, text: str) -> None:
        """Log and keep a line that a sidecar sent with a reply."""
        log.warning("reward sidecar: %s", text)
        self._write("notes", ".txt", f"{text}\n".encode())

    def _write(self, kind: str, suffix: str, content: bytes) -> Path | None:
        if self._folder is None:
            return None
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            kept = len(list(self._folder.glob(f"{kind}_*")))
            if kept >= MAX_FILES:
                log.warning("%s has %d %s files; no more are kept", self._folder, kept, kind)
                return None
            path = (
                self._folder
                / f"{kind}_{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}_{kept}{suffix}"
            )
            with tempfile.NamedTemporaryFile(
                dir=self._folder, prefix=".", delete=False
            ) as file:  # made with mode 0600
                file.write(content)
            os.replace(file.name, path)
        except OSError as error:  # a full disk here must not end the run: the next checkpoint will say so with more at stake
            log.error("%s could not be kept in %s: %s", kind, self._folder, error)
            return None
        return path


def describe(request: Request) -> str:
    """A request in words."""
    scored = f", {request.prompts} prompts" if request.kind is Kind.SCORE else ""
    return f"request {request.seq} ({request.kind.name.lower()} of a {request.width}x{request.height} image{scored})"

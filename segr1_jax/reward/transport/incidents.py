"""Reports of the faults of a run.

The folder gets requests that killed a sidecar, the stacks of both processes at a missed deadline,
notes of sidecars, and arrays of other modules (the batches of skipped updates).
"""

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

# Per kind and folder, so that a run with a persistent fault does not fill the disk.
MAX_FILES = 20

log = logging.getLogger(__name__)


class Incidents:
    """Writer of fault reports into a folder, at most MAX_FILES of a kind.

    The folder has mode 0700 and its files 0600, because they contain training data. Without a
    folder, faults are only logged.
    """

    def __init__(self, folder: Path | None):
        self._folder = folder

    def quarantine(self, request: Request, region: mmap.mmap, reason: str) -> None:
        """Write a quarantined request as one .npz: image, mask, prompts and the reason.

        `numpy.load` reads the file; `prompts_block.unpack_prompts(prompts.tobytes(), count)`
        returns its prompts. The field `obituary` has the reason.
        """
        first_line = reason.partition("\n")[0]
        log.error("%s is dropped from its group: %s", describe(request), first_line)

        def block(offset: int, *shape: int) -> np.ndarray:
            length = int(np.prod(shape))
            return np.frombuffer(region[offset : offset + length], np.uint8).reshape(shape)

        content = {
            "image": block(request.image_at, request.height, request.width, 3),
            "obituary": np.array(reason),
        }
        if request.kind is Kind.SCORE:
            content |= {
                "mask": block(request.mask_at, request.mask_height, request.mask_width) != 0,
                "prompts": block(request.prompts_at, request.prompts_bytes),
                "count": np.array(request.prompts),
            }
        self.keep("quarantined", content)

    def keep(self, kind: str, arrays: Mapping[str, np.ndarray]) -> Path | None:
        """Write arrays as one .npz and return its path.

        Returns None if the file was not written; the log has the cause.
        """
        archive = io.BytesIO()
        np.savez_compressed(archive, **arrays)
        return self._write(kind, ".npz", archive.getvalue())

    def missed_deadline(self, what: str, sidecar_stacks: str) -> None:
        """Log a missed deadline and write the stacks of both processes."""
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            trainer_stacks = file.read().decode(errors="replace")
        content = f"{what}\n\nTrainer:\n{trainer_stacks}\nSidecar:\n{sidecar_stacks}\n"
        path = self._write("stacks", ".txt", content.encode())
        log.warning(
            "%s; stacks of both processes: %s",
            what,
            path or f"\nsidecar:\n{sidecar_stacks}\ntrainer:\n{trainer_stacks}",
        )

    def note(self, text: str) -> None:
        """Log and write a line that a sidecar sent with a reply."""
        log.warning("reward sidecar: %s", text)
        self._write("notes", ".txt", f"{text}\n".encode())

    def _write(self, kind: str, suffix: str, content: bytes) -> Path | None:
        if self._folder is None:
            return None
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            count = len(list(self._folder.glob(f"{kind}_*")))
            if count >= MAX_FILES:
                log.warning("%s has %d %s files; no more are written", self._folder, count, kind)
                return None
            moment = time.strftime("%Y%m%d_%H%M%S")
            path = self._folder / f"{kind}_{moment}_{os.getpid()}_{count}{suffix}"
            # NamedTemporaryFile creates files of mode 0600.
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".", delete=False) as file:
                file.write(content)
            os.replace(file.name, path)
        except OSError as error:
            # A report that cannot be written must not end the run. If the disk is full, the next
            # checkpoint reports that.
            log.error("the %s file could not be written to %s: %s", kind, self._folder, error)
            return None
        return path


def describe(request: Request) -> str:
    """Return a request in words."""
    work = f"{request.kind.name.lower()} of a {request.width}x{request.height} image"
    scored = f", {request.prompts} prompts" if request.kind is Kind.SCORE else ""
    return f"request {request.seq} ({work}{scored})"

"""Checksums of a checkpoint: a digest of every file of a step, written before it is committed.

Orbax and TensorStore verify the B-tree of a checkpoint but not its array data, and no checksum
inside one file can show that the file belongs to another step. The digests cover both. The first
process computes them in threads by reading the step back; a restore divides the files over the
processes.
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from segr1_jax.errors import UserError

MANIFEST = "checksums.json"
# Orbax writes these when it commits, after the digests are computed. Nothing is restored from them.
UNCHECKED = ("_CHECKPOINT_METADATA", "commit_success.txt")
THREADS = 8  # SHA-256 and reads release the interpreter's lock
CHUNK_BYTES = 8 * 2**20


def write_checksums(step: epath.Path) -> None:
    """Write the digests of all files under `step`. Call it once nothing else writes there."""
    names = [str(path.relative_to(step)) for path in _files(step)]
    names = [name for name in names if name not in UNCHECKED]
    with ThreadPoolExecutor(THREADS) as pool:
        digests = pool.map(lambda name: _digest(step / name), names)
    manifest = dict(sorted(zip(names, digests, strict=True)))
    (step / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def damaged_files(step: epath.Path, item: str = "") -> list[str]:
    """Return the files of `step`, or of one `item` of it, that are missing or changed.

    Every process must call this together: each reads its share of the files, and all return the
    same list. A step of an earlier version, which wrote no digests, passes with a warning.
    """
    if not (step / MANIFEST).exists():
        if jax.process_index() == 0:
            print(f"{step}: no {MANIFEST}, so its files are not verified", file=sys.stderr)
        return []
    began, digests = time.monotonic(), _manifest(step)
    names = [name for name in digests if name.startswith(f"{item}/" if item else "")]
    local_names = names[jax.process_index() :: jax.process_count()]
    with ThreadPoolExecutor(THREADS) as pool:
        local_digests = pool.map(lambda name: _digest(step / name), local_names)
        local = dict(zip(local_names, local_digests, strict=True))
    # Each process flags its own files only; a file is damaged if any process flags it.
    bad = _of_any_process([local.get(name, digests[name]) != digests[name] for name in names])
    if (seconds := time.monotonic() - began) > 1 and jax.process_index() == 0:
        print(f"{step}: {len(names)} files verified in {seconds:.0f} s", file=sys.stderr)
    return [name for name, damaged in zip(names, bad, strict=True) if damaged]


def require_undamaged(step: epath.Path, item: str = "", *, remedy: str) -> None:
    """Raise UserError if a file of `step`, or of one `item` of it, is damaged."""
    if bad := damaged_files(step, item):
        raise UserError(
            str(step),
            expected=f"files as they were written, according to {MANIFEST}",
            got=f"{len(bad)} that are missing or changed: {', '.join(bad[:3])}",
            remedy=remedy,
        )


def _manifest(step: epath.Path) -> dict[str, str]:
    try:
        return dict(json.loads((step / MANIFEST).read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(
            str(step / MANIFEST),
            expected="digests by file name",
            got=f"{type(error).__name__}: {error}",
            remedy="copy the checkpoint again, or delete it to use the one before",
        ) from None


def _files(directory: epath.Path) -> Iterable[epath.Path]:
    for path in sorted(directory.iterdir()):
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _digest(path: epath.Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, or an empty string if it does not exist."""
    if not path.exists():
        return ""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _of_any_process(flags: list[bool]) -> np.ndarray:
    """Return the elementwise `or` over the processes."""
    local = np.array(flags, bool)
    if jax.process_count() == 1 or not flags:
        return local
    return np.asarray(multihost_utils.process_allgather(local)).any(axis=0)

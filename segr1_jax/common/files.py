"""Atomic file writes: readers never see, and killed runs never leave, a partial file."""

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from segr1_jax.errors import UserError

SYNC_THREADS = 8
# Errors of a file system that the user must fix. Any other, such as ENOENT, may be a bug here.
STORAGE_FAULTS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.ESTALE, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
)


def found_beside(path: str | Path, folder: Path) -> Path:
    """Return `path`, or that path below `folder` if only there it exists."""
    beside = folder / path
    return beside if beside.exists() and not Path(path).exists() else Path(path)


@contextlib.contextmanager
def naming_storage_faults(place: str, kept: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Raise UserError if the block hits a full, read-only or failing file system.

    `place` names the location where the system error names no file; `kept` returns a note for the
    remedy on what is still intact.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in STORAGE_FAULTS:
            raise
        raise UserError(
            str(error.filename or place),
            expected="a writable file system",
            got=error.strerror or str(error),
            remedy="check its free space and permissions"
            + (f"; {text}" if (text := kept()) else ""),
        ) from error


def write_atomically(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Replace the content of `path`: at any time it holds the old content or all of the new.

    Without `durable` a power failure may still lose the new content: call `make_durable` for many
    files at once.
    """
    with replacing(path, durable=durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def make_durable(paths: Iterable[Path]) -> None:
    """Return once these files and their directory entries are on the disk.

    Concurrent fsyncs share the commits of the file system's journal.
    """
    paths = set(paths)
    with ThreadPoolExecutor(SYNC_THREADS) as pool:
        list(pool.map(_sync, paths))
        list(pool.map(_sync, {path.parent for path in paths}))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that is renamed to `path` at the end of the block.

    If the block fails, the temporary file is removed and `path` is unchanged.
    """
    path = Path(path)
    partial = partial_name(path)
    # open() sets permissions by the umask; mkstemp would always set 0600.
    file = partial.open("xb")
    try:
        with file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink()
        raise


def partial_name(path: Path) -> Path:
    """Return a hidden name beside `path` that no other writer uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


@contextlib.contextmanager
def new_directory(path: Path, *, replace: str | None = None) -> Iterator[Path]:
    """Make a temporary directory beside `path` that is renamed to `path` at the end of the block.

    If the block fails, the temporary directory is removed. An existing `path` is replaced only if
    it holds a file named `replace`, which shows that the caller wrote it before.

    Raises:
        UserError: `path` exists and may not be replaced.
    """
    if path.exists() and not (replace and (path / replace).is_file()):
        expected = (
            f"a directory with {replace}, or a path that does not exist yet"
            if replace
            else "a path that does not exist yet"
        )
        raise UserError(
            str(path),
            expected=expected,
            got="an existing path",
            remedy="choose another path or delete this one",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(path)
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            old = path.rename(partial.with_name(f"{partial.name}.old"))
            partial.rename(path)
            shutil.rmtree(old)
        else:
            partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def json_line(record: dict[str, Any]) -> str:
    """Return the record as one line of JSON.

    A lone surrogate, which names of files may hold and UTF-8 cannot, is written as its escape.
    """
    text = json.dumps(record, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode() + "\n"

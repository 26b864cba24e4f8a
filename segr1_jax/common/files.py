"""Writing files so that a reader, or a run killed half-way, never sees half of one."""

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
# What a file system says where the user must act. Anything else, such as ENOENT, may be a bug here.
STORAGE_FAULTS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.ESTALE, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
)


@contextlib.contextmanager
def naming_storage_faults(place: str, kept: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Turn a full, read-only or failing file system into a UserError.

    `place` stands for the file where the system names none; `kept` says what is whole after it.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in STORAGE_FAULTS:
            raise
        raise UserError(
            str(error.filename or place),
            expected="a file system that takes it",
            got=error.strerror or str(error),
            remedy="look at the space and the rights there"
            + (f"; {text}" if (text := kept()) else ""),
        ) from error


def write_atomically(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write `content` to a temporary name beside `path`, then rename: `path` holds the old content or the new, never a part.

    Without `durable` a power failure may still take it: call `make_durable` for many files at once.
    """
    with replacing(path, durable=durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def make_durable(paths: Iterable[Path]) -> None:
    """Return once these files, and their names, are on the disk.

    Many fsyncs at the same time share the commits of the file system's journal.
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
    """A file to write under a temporary name beside `path`; it takes that name at the end of the block, and goes if the block fails."""
    path = Path(path)
    partial = partial_name(path)
    # open() creates with the rights that the umask leaves; mkstemp would always take 0600.
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
    """Return a hidden name beside `path` that no other writer takes."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


@contextlib.contextmanager
def new_directory(path: Path, *, replace: str | None = None) -> Iterator[Path]:
    """A directory to fill under a temporary name beside `path`; it takes that name, whole, at the end of the block, or goes if it fails.

    An existing `path` is replaced only if `replace` names a file in it: the sign that it is what the caller writes there.

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
            got="an existing one",
            remedy="choose another or delete it",
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
    """One line of JSON for any text: half a surrogate pair, which UTF-8 cannot hold (names of files have some), becomes its escape."""
    return (
        json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace").decode() + "\n"
    )

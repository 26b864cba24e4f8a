"""The files of own terms: where they are, what they contain, the functions in them.

The content hash of each file is part of the configuration, so that a run resumes with the functions
that it began with. It covers the file alone, not the modules that the file imports.
"""

import dataclasses
import functools
import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from segr1_jax.common.files import found_beside
from segr1_jax.errors import UserError
from segr1_jax.reward.config import RewardConfig
from segr1_jax.reward.term_entries import OwnEntry, own_entries, own_entry

ARGUMENTS = ("text", "answer", "mask", "truth", "example")
DIGITS = 16


@dataclasses.dataclass(frozen=True)
class OwnTerm:
    """A function of the user.

    Attributes:
        place: its file and its name.
        call: the function.
        wants: the arguments that it takes, among ARGUMENTS.
    """

    place: OwnEntry
    call: Callable[..., Any]
    wants: tuple[str, ...]


def with_term_files(reward: RewardConfig, folder: Path) -> RewardConfig:
    """Return `reward` with the files of its own terms located, and their hashes recorded.

    A file that does not exist relative to the working directory is taken relative to `folder`. A
    hash that is recorded already stays; a file that is in neither place has none.
    """
    terms = [_located(entry, folder) for entry in reward.terms]
    files = dict(reward.term_files)
    for own in own_entries(terms):
        if own.function not in files and Path(own.file).is_file():
            files[own.function] = _mark(own.file, _read(own.file))
    return dataclasses.replace(reward, terms=terms, term_files=files)


def open_term(place: OwnEntry, recorded: str | None) -> OwnTerm:
    """Load the function of an own term. `recorded` is the entry of `reward.term_files`.

    A file is executed once in a process, so that it may be edited while a run goes on.

    Raises:
        UserError: the file is missing, is not Python or has other content than recorded; or the
            function is missing, or takes none or more than ARGUMENTS.
    """
    mark = recorded or _mark(place.file, _read(place.file))
    call = getattr(_module(place.file, mark), place.function, None)
    if not callable(call):
        raise UserError(
            str(place),
            expected=f"a function {place.function} in the file",
            got="none" if call is None else type(call).__name__,
            remedy="correct reward.terms",
        )
    return OwnTerm(place, call, _wanted(place, call))


def _located(entry: str, folder: Path) -> str:
    own = own_entry(entry)
    return str(own._replace(file=str(found_beside(own.file, folder)))) if own else entry


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        got = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise UserError(
            f"reward.terms: {file}",
            expected="a Python file in the working directory or beside the configuration",
            got=got,
            remedy="correct the path",
        ) from None


def _mark(file: str, content: bytes) -> str:
    return f"{Path(file).name} {hashlib.sha256(content).hexdigest()[:DIGITS]}"


@functools.cache
def _module(file: str, mark: str) -> ModuleType:
    content = _read(file)
    if mark != (found := _mark(file, content)):
        raise UserError(
            file,
            expected=f"the content of the file when the configuration was read ({mark})",
            got=found,
            remedy="restore the file, or choose another run_dir",
        )
    # Registered as dataclasses and pickle expect. Its folder is not searched for other modules.
    module = ModuleType(f"segr1_own_terms_{found.rpartition(' ')[2]}")
    module.__file__ = file
    sys.modules[module.__name__] = module
    try:
        exec(compile(content, file, "exec"), module.__dict__)
    except Exception as error:
        raise UserError(
            file,
            expected="a Python file that can be imported",
            got=described(error, file),
            remedy="correct it; of other modules it can import installed ones only",
        ) from error
    return module


def described(error: BaseException, file: str) -> str:
    """Return an error as one line, with the last line of `file` that it passed through."""
    lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == file]
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{text} (line {lines[-1]})" if lines else text


def _wanted(place: OwnEntry, call: Callable[..., Any]) -> tuple[str, ...]:
    """Return the arguments that a function takes by name; all of them if it has `**kwargs`."""
    try:
        signature = inspect.signature(call)
        parameters = signature.parameters
        takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
        wanted = tuple(name for name in ARGUMENTS if takes_all or name in parameters)
        signature.bind(**dict.fromkeys(wanted))
        got = "" if wanted else f"{place.function}{signature}"
    except (TypeError, ValueError) as error:
        got = f"{error} for {place.function}"
    if got:
        raise UserError(
            str(place),
            expected=f"a function of one or several of {', '.join(ARGUMENTS)}, by name",
            got=got,
            remedy=f"write for example def {place.function}(answer, truth)",
        )
    return wanted

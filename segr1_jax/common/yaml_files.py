"""YAML files of users, read with errors that name the file and the remedy."""

import io
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segr1_jax.errors import UserError

# Largest configuration file. PyYAML takes up to 4 s for a file of this size; our files have 3 kB.
MOST_BYTES = 2**16
MALFORMED = (
    yaml.YAMLError,
    OmegaConfBaseException,
    # Errors of PyYAML for values that contradict their tag, and for deep nesting.
    *(ValueError, TypeError, KeyError, AttributeError, RecursionError),
)


def read_yaml(
    path: Path, what: str, remedy: str, *, most_bytes: int = MOST_BYTES
) -> dict[str, Any]:
    """Read a file of `key: value` lines; `${...}` stays text.

    Args:
        what: the kind of file that errors expect, such as "a YAML configuration file".
        remedy: the remedy where the file does not exist or has something else.

    Raises:
        UserError: the file is missing, too large, or not YAML in UTF-8; or it has an alias.
    """
    text = _read_text(path, what, remedy, most_bytes)
    try:
        _refuse_aliases(path, text)
        tree = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False)
    except UserError:
        raise
    except MALFORMED as error:
        raise UserError(
            str(path), expected=what, got=one_line(error), remedy="fix the file"
        ) from error
    if not isinstance(tree, dict):
        raise UserError(
            str(path),
            expected="key: value lines",
            got=type(tree).__name__,
            remedy=remedy,
        )
    return tree


def one_line(error: Exception) -> str:
    """Return the message of an error as one line."""
    return " ".join(str(error).split())


def _read_text(path: Path, what: str, remedy: str, most_bytes: int) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
        text = content.decode()
    except FileNotFoundError:
        raise UserError(str(path), expected=what, got="no such file", remedy=remedy) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            str(path), expected=f"{what} in UTF-8", got=one_line(error), remedy="fix the file"
        ) from error
    if len(content) > most_bytes:
        raise UserError(
            str(path),
            expected=f"{what} of at most {most_bytes // 1024} kB",
            got="a larger file",
            remedy="pass the right file",
        )
    return text


def _refuse_aliases(path: Path, text: str) -> None:
    """Raise UserError for a YAML alias.

    A few nested aliases expand to gigabytes, and no file of ours needs one.
    """
    for event in yaml.parse(text):
        if isinstance(event, yaml.AliasEvent):
            raise UserError(
                f"{path}:{event.start_mark.line + 1}",
                expected="plain values",
                got=f"the alias *{event.anchor}",
                remedy="write the value itself",
            )

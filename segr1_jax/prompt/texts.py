"""Texts of prompts from a YAML file (`prompt.texts`), for policies trained on other wordings.

    rl:                              # one section for each prompt.task that is used
      system: "You segment images."  # optional; without it Qwen's template adds its own line
      user: "{image}Find {instruction}. Answer as {template}"
      everything: "{image}Find all salient objects. Answer as {template}"
      template: "<think>...</think> <bbox>[x1,y1,x2,y2]</bbox>, ..."

`user` is the turn about a sample with a sentence, which takes the place of {instruction}.
`everything` is the turn about one without; where it is missing, `user` asks for "all primary
objects.". {image} is the image, {template} the text of `template`. A brace is written {{ or }},
except in `template`, which is taken as it stands.
"""

import difflib
import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from segr1_jax.common.files import found_beside
from segr1_jax.common.yaml_files import read_yaml
from segr1_jax.errors import UserError

Task = Literal["rl", "prerl", "sft"]
TASKS = get_args(Task)
# Name of the file in an exported directory. Whoever loads the directory uses its texts.
TEXTS_FILE = "prompt_texts.yaml"
# Placeholders of the turns: those that each needs, and all that it may have.
NEEDED = {"system": (), "user": ("image", "instruction"), "everything": ("image",)}
ALLOWED = {
    "system": ("template",),
    "user": ("image", "instruction", "template"),
    "everything": ("image", "template"),
}
KEYS = (*ALLOWED, "template")
MOST_BYTES = 2**14  # the texts are copied into configurations, which have limits of their own
REMEDY = "segr1_jax/prompt/texts.py shows the form of the file"
ESCAPE = "write a brace as {{ or }}"

Texts = dict[str, dict[str, str]]


def parse_texts(value: Any, where: str, folder: Path) -> Texts:
    """Return the texts by task and key; `value` is a mapping of them, or the path of their file.

    A file that does not exist relative to the working directory is taken relative to `folder`. ""
    has no texts. `where` names the value in errors.

    Raises:
        UserError: the file cannot be read; a key or a placeholder is unknown; a text lacks a
            placeholder that it needs, or is none.
    """
    if isinstance(value, str) and value:
        return read_texts(found_beside(value, folder))
    return _checked(value or {}, where)


def read_texts(file: Path) -> Texts:
    """Return the texts of a file. Raises UserError as parse_texts does."""
    tree = read_yaml(file, "a YAML file of prompt texts", REMEDY, most_bytes=MOST_BYTES)
    return _checked(tree, str(file))


def exported_texts(directory: str | Path) -> Texts:
    """Return the texts in a policy directory, {} where it has none."""
    file = Path(directory) / TEXTS_FILE
    return read_texts(file) if file.is_file() else {}


def texts_file(texts: Texts) -> str:
    """Return the content of a file from which `read_texts` returns `texts`."""
    written = {
        task: {key: text for key, text in own.items() if text} for task, own in texts.items()
    }
    return yaml.safe_dump(written, allow_unicode=True, sort_keys=False)


def placeholders(text: str) -> list[tuple[str, str | None]]:
    """Return the text as pairs of a literal and the placeholder after it, None after the last.

    Raises:
        ValueError: a single brace, or a placeholder with more than a name.
    """
    found = []
    for literal, name, spec, conversion in string.Formatter().parse(text):
        if spec or conversion:
            raise ValueError(f"{{{name}}} with a format")
        found.append((literal, name))
    return found


def _checked(tree: Any, where: str) -> Texts:
    if not isinstance(tree, Mapping):
        raise _error(where, "texts by task, or the path of their file", repr(tree), REMEDY)
    for task in tree:
        _require_known(where, "a task", str(task), TASKS)
    return {task: _checked_task(own, f"{where}: {task}") for task, own in tree.items()}


def _checked_task(own: Any, where: str) -> dict[str, str]:
    if not isinstance(own, Mapping):
        raise _error(where, f"the keys {', '.join(KEYS)}", repr(own), "write one line for each")
    for key, text in own.items():
        _require_known(where, "a key", str(key), KEYS)
        if not isinstance(text, str) or "${" in text:
            got = repr(text) if isinstance(text, str) else f"{text!r} ({type(text).__name__})"
            raise _error(f"{where}.{key}", "a text without ${", got, "put it in quotes")
    texts = {key: own.get(key, "") for key in KEYS}
    if not texts["user"]:
        raise _error(f"{where}.user", "the user's turn", "nothing", "write user: ...")
    used = set()
    for key in ALLOWED:
        used |= set(_checked_names(texts[key], key, f"{where}.{key}"))
    if bool(texts["template"]) != ("template" in used):
        got = "one of the two"
        raise _error(f"{where}.template", "a text, and {template} where it stands", got, "add it")
    return texts


def _checked_names(text: str, key: str, where: str) -> list[str]:
    """Return the placeholders of a text."""
    try:
        names = [name for _, name in placeholders(text) if name is not None]
    except ValueError as error:
        raise _error(where, "placeholders by name", str(error), ESCAPE) from None
    allowed = ALLOWED[key]
    known = ", ".join(f"{{{name}}}" for name in allowed)
    for name in names:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1)
            remedy = f"did you mean {{{near[0]}}}?" if near else ESCAPE
            raise _error(where, f"no placeholders but {known}", f"{{{name}}}", remedy)
    for name in NEEDED[key] if text else ():
        if name not in names:
            remedy = "write {image} where the image stands"
            if name == "instruction":
                remedy = "write it where the sentence stands; a turn without is `everything`"
            raise _error(where, f"the placeholder {{{name}}}", repr(text), remedy)
    if names.count("image") > 1:
        raise _error(where, "{image} once", f"{names.count('image')} of them", "remove the others")
    return names


def _require_known(where: str, what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {near[0]}?" if near else "remove it"
        raise _error(where, f"{what} of {', '.join(known)}", repr(name), remedy)


def _error(where: str, expected: str, got: str, remedy: str) -> UserError:
    return UserError(where, expected=expected, got=got, remedy=remedy)

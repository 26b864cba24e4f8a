"""The configurations that come with the package, by name: quickstart_grpo, paper/rl_cod_3b.

`segr1_jax/recipes` is a link to configs/ of the repository; an installed package has the files.
"""

import difflib
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

import segr1_jax
from segr1_jax.errors import UserError

RECIPES = Path(segr1_jax.__file__).parent / "recipes"
ARCHITECTURES = RECIPES / "arch"
# The folder of the repository. A command written for a clone works in any directory.
FOLDER = "configs"
WIDTH, INDENT = 88, " " * 4
_FACT = re.compile(r"(\w+):\s+(.*)")


class Recipe(NamedTuple):
    """What the head of a configuration says about it, one line each."""

    name: str
    purpose: str
    command: str
    hardware: str
    time: str
    expected: str


def configuration_file(given: Path) -> Path:
    """Return `given` if it exists, or else the recipe of that name.

    Raises:
        UserError: there is neither.

    Example:
        >>> configuration_file(Path("paper/rl_cod_3b")).name
        'rl_cod_3b.yaml'
    """
    if given.exists():
        return given
    name = given.with_suffix("").as_posix().removeprefix(f"{FOLDER}/")
    names = {_name(file): file for file in _files()}
    if given.suffix in ("", ".yaml") and name in names:
        return names[name]
    near = difflib.get_close_matches(name, names, n=1)
    raise UserError(
        str(given),
        expected="a YAML configuration file, a run directory or a recipe",
        got="no such file",
        remedy=f"did you mean {near[0]}?" if near else "`segr1 recipes` lists the recipes",
    )


def all_recipes() -> list[Recipe]:
    """Return all recipes in the order of their names, the ones without a folder first."""
    return [read_head(_name(file), file.read_text()) for file in _files()]


def read_head(name: str, text: str) -> Recipe:
    """Return the facts in the comment at the top of a configuration.

    Raises:
        KeyError: a fact is missing.
    """
    purpose, facts = [], {}
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        words = line.removeprefix("#").strip()
        if fact := _FACT.fullmatch(words):
            facts[fact[1]] = [fact[2]]
        elif facts:
            facts[next(reversed(facts))].append(words)
        else:
            purpose.append(words)
    named = ("Command", "Hardware", "Time", "Expected")
    return Recipe(name, " ".join(purpose), *(" ".join(facts[fact]) for fact in named))


def describe_recipe(recipe: Recipe) -> str:
    """Return name, hardware, purpose and command of a recipe in some lines."""
    purpose = textwrap.indent(textwrap.fill(recipe.purpose, WIDTH - len(INDENT)), INDENT)
    return f"{recipe.name}  ({recipe.hardware})\n{purpose}\n{INDENT}{recipe.command}"


def _files() -> list[Path]:
    return [*sorted(RECIPES.glob("*.yaml")), *sorted(RECIPES.glob("*/*.yaml"))]


def _name(file: Path) -> str:
    return file.relative_to(RECIPES).with_suffix("").as_posix()

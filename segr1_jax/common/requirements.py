"""Versions of other packages that this package requires."""

import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

DISTRIBUTION = "segr1-jax"
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def required(extra: str = "") -> dict[str, SpecifierSet]:
    """Return the required versions by package, for the core or for one extra without the core.

    Example:
        >>> str(required("eval")["pyarrow"])
        '>=20'
    """
    return {
        canonicalize_name(requirement.name): requirement.specifier
        for requirement in map(Requirement, _lines())
        if bool(requirement.marker) == bool(extra)
        if not requirement.marker or requirement.marker.evaluate({"extra": extra})
    }


def pinned(package: str, extra: str) -> str:
    """Return the one version that an extra requires of a package.

    Example:
        >>> pinned("sam2", "sidecar")
        '1.1.0'
    """
    (specifier,) = required(extra)[package]
    return specifier.version


def _lines() -> list[str]:
    """Return all requirements in the notation of wheel metadata.

    The pyproject.toml of a checkout comes first, because the metadata of an editable install are as
    old as the install. The file beside an installed package may belong to another project.
    """
    project = tomllib.loads(PYPROJECT.read_text())["project"] if PYPROJECT.is_file() else {}
    if project.get("name") != DISTRIBUTION:
        return importlib.metadata.requires(DISTRIBUTION) or []
    extras = project["optional-dependencies"].items()
    return [
        *project["dependencies"],
        *(f'{line}; extra == "{extra}"' for extra, lines in extras for line in lines),
    ]

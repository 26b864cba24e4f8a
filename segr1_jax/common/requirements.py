"""The versions of other packages that this one asks for."""

import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

DISTRIBUTION = "segr1-jax"
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def required(extra: str = "") -> dict[str, SpecifierSet]:
    """Package -> versions, of the core, or of one extra without the core.

    Example:
        >>> str(required("sidecar")["sam2"])
        '==1.1.0'
    """
    return {
        canonicalize_name(each.name): each.specifier
        for each in map(Requirement, _lines())
        if bool(each.marker) == bool(extra)
        if not each.marker or each.marker.evaluate({"extra": extra})
    }


def _lines() -> list[str]:
    """All requirements, as wheels state them.

    A checkout's own file comes first: the metadata of an editable install are as old as the
    install. Beside an installed package there may be another project's file.
    """
    project = tomllib.loads(PYPROJECT.read_text())["project"] if PYPROJECT.is_file() else {}
    if project.get("name") != DISTRIBUTION:
        return importlib.metadata.requires(DISTRIBUTION) or []
    extras = project["optional-dependencies"].items()
    return [
        *project["dependencies"],
        *(f'{line}; extra == "{extra}"' for extra, lines in extras for line in lines),
    ]

"""Virtual environments that hold chosen packages and what they need, linked from the running one.

Made offline, in seconds.
"""

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def build_wheel(folder: Path) -> Path:
    """This package as a wheel, built from a copy: setuptools leaves files beside what it builds."""
    source = folder / "source"
    shutil.copytree(
        ROOT / "segr1_jax", source / "segr1_jax", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def make_environment(folder: Path, requirements: Iterable[str], wheel: Path) -> Path:
    """Return the interpreter of a new environment.

    It has the requirements with all that they require, and the wheel without its own.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    for each in _closure(requirements):
        for top in {file.parts[0] for file in each.files} - {"..", "__pycache__"}:
            if not (
                packages / top
            ).exists():  # namespaces such as nvidia/ belong to several distributions
                (packages / top).symlink_to(each.locate_file(top))
    python = folder / "bin" / "python"
    _pip("--python", python, "install", "--no-deps", "--no-index", wheel)
    return python


def _closure(requirements: Iterable[str]) -> list[Distribution]:
    """Return the installed distributions that the requirements need.

    Optional ones are left out unless an extra names them.
    """
    found, waiting = {}, [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        for extra in ("", *requirement.extras):
            if (requirement.name, extra) in found:
                continue
            try:
                each = found[requirement.name, extra] = distribution(requirement.name)
            except PackageNotFoundError:
                continue  # needed on another platform only
            needed = map(Requirement, each.requires or ())
            waiting += [
                one for one in needed if one.marker is None or one.marker.evaluate({"extra": extra})
            ]
    return list(found.values())


def _pip(*arguments) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        *map(str, arguments),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)

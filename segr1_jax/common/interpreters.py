"""The interpreter of code that needs torch."""

import importlib.util
import sys
from pathlib import Path


def interpreter_of_torch(named: str = "") -> str:
    """Return `named`, or the interpreter that has torch if none is named.

    That is this one, unless it has no torch and `launch/setup.sh cuda12` created another
    environment beside it.
    """
    if named:
        return named
    beside = None if importlib.util.find_spec("torch") else sidecar_beside(Path(sys.prefix))
    return str(beside or sys.executable)


def sidecar_beside(prefix: Path) -> Path | None:
    """Return the interpreter of `.venv-sidecar` beside the environment `.venv`, if there is one."""
    beside = prefix.with_name(prefix.name.replace(".venv", ".venv-sidecar", 1)) / "bin" / "python"
    return beside if beside.is_file() and beside.parents[1] != prefix else None

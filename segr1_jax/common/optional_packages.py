"""Packages that only some uses need: imported where they are used, and a clear word where they are missing."""

import importlib
from types import ModuleType

from segr1_jax.errors import UserError


def optional_package(module: str, extra: str) -> ModuleType:
    """The module, or a UserError that names the extra which brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise
        remedy = f"pip install 'segr1-jax[{extra}]'"
        raise UserError(
            f"package {error.name}",
            expected=f"the extra `{extra}`",
            got="not installed",
            remedy=remedy,
        ) from error

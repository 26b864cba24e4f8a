"""Import of optional packages, with an error that names the missing extra."""

import importlib
from types import ModuleType

from segr1_jax.errors import UserError


def optional_package(module: str, extra: str) -> ModuleType:
    """Import the module, or raise UserError that names the extra which installs it."""
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

"""Check one configuration value against the type of its field."""

import sys
from typing import Any, get_args

from segr1_jax.common.config_fields import require_choice
from segr1_jax.errors import UserError

LARGEST = sys.float_info.max


def typed(value: Any, kind: type, hint: Any, where: str) -> Any:
    """Return `value`, checked against the type `kind` of its default and any Literal `hint`.

    Integers become floats where a float is expected; nothing else is converted.

    Raises:
        UserError: the value has another type, is not finite, contains an interpolation, or is not
            one of the choices.
    """
    if isinstance(value, str) and "${" in value:
        raise UserError(
            where,
            expected="a plain value",
            got=value,
            remedy="write the value itself: interpolation is disabled",
        )
    if type(value) in (int, float) and not -LARGEST <= value <= LARGEST:
        raise UserError(
            where,
            expected="a finite number",
            got=f"{value!r:.40}",
            remedy="change the value",
        )
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        remedy = "put the value in quotes" if kind is str else "change the value"
        raise UserError(
            where, expected=kind.__name__, got=f"{value!r} ({type(value).__name__})", remedy=remedy
        )
    if kind is str and (choices := get_args(hint)):
        require_choice(where, value, choices)
    return value

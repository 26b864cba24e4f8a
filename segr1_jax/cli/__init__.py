"""The `segr1` command."""

import argparse
import sys
from collections.abc import Sequence

from segr1_jax.cli.parser import build_parser
from segr1_jax.errors import Preempted, UserError
from segr1_jax.files import naming_storage_faults

USER_FAULT = 2  # exit status when the input, the configuration or the installation is at fault


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status. A fault the user can mend is one message on stderr, without a traceback."""
    options = parse(arguments)
    try:
        with naming_storage_faults("the file system"):
            return options.run(options)
    except UserError as error:
        return _fail(str(error))
    except Preempted as stop:
        return _fail(str(stop), status=stop.status)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("segr1_jax"):
            raise
        return _fail(
            f"the package {error.name!r} is missing from {sys.executable}. Remedy: bash launch/setup.sh makes the environment."
        )
    except RuntimeError as error:
        if "Unable to initialize backend" not in str(error):
            raise
        return _fail(
            f"JAX finds no usable device ({error}). Remedy: `segr1 doctor` says what is wrong; JAX_PLATFORMS=cpu runs on the CPU."
        )
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on from the last checkpoint.", status=130)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; key=value may stand anywhere behind the command, also after flags (argparse takes one run of them)."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if unknown := [
        word
        for word in rest
        if word.startswith("-") or "=" not in word or not hasattr(options, "overrides")
    ]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _fail(message: str, status: int = USER_FAULT) -> int:
    print(f"segr1: {' '.join(message.split())}", file=sys.stderr)
    return status

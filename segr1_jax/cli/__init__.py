"""The `segr1` command."""

import argparse
import os
import select
import sys
from collections.abc import Sequence

from segr1_jax.cli.parser import build_parser
from segr1_jax.common.files import naming_storage_faults
from segr1_jax.errors import Preempted, UserError

USER_FAULT = 2  # exit status for an error of the input, the configuration or the installation
STDOUT = 1  # file descriptor
CLOSED_OUTPUT = 141  # exit status of a command ended by SIGPIPE, as shells report it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status.

    An error that the user can fix is one message on stderr, without a traceback.
    """
    options = parse(arguments)
    try:
        with naming_storage_faults("the file system"):
            status = options.run(options)
        # At exit, Python would print an error about a closed pipe that cannot be caught.
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        if not _output_is_closed():
            raise
        return CLOSED_OUTPUT
    except UserError as error:
        return _fail(str(error))
    except Preempted as stop:
        return _fail(str(stop), status=stop.status)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("segr1_jax"):
            raise
        return _fail(
            f"the package {error.name!r} is missing from {sys.executable}. "
            "Remedy: create the environment with bash launch/setup.sh."
        )
    except RuntimeError as error:
        if "Unable to initialize backend" not in str(error):
            raise
        return _fail(
            f"JAX finds no usable device ({error}). Remedy: run `segr1 doctor`, or set "
            "JAX_PLATFORMS=cpu to use the CPU."
        )
    except KeyboardInterrupt:
        return _fail(
            "interrupted; the same command continues from the last checkpoint.", status=130
        )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options. key=value may be anywhere after the command, also between flags.

    argparse itself accepts one uninterrupted sequence of them and returns the others as unknown.
    """
    parser = build_parser()
    options, others = parser.parse_known_args(arguments)
    if unknown := [
        word
        for word in others
        if word.startswith("-") or "=" not in word or not hasattr(options, "overrides")
    ]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if others:
        options.overrides = [*options.overrides, *others]
    return options


def _output_is_closed() -> bool:
    """Return True if the reader of stdout has closed it, as `head` does.

    The buffered output is then discarded.
    """
    output = select.poll()
    output.register(STDOUT, 0)
    closed = any(event & select.POLLERR for _, event in output.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
    return closed


def _fail(message: str, status: int = USER_FAULT) -> int:
    print(f"segr1: {' '.join(message.split())}", file=sys.stderr)
    return status

"""The `segr1` command."""

import argparse
import os
import select
import sys
from collections.abc import Sequence

from segr1_jax.cli.parser import build_parser
from segr1_jax.common.files import naming_storage_faults
from segr1_jax.errors import Preempted, UserError

USER_FAULT = 2  # exit status when the input, the configuration or the installation is at fault
STDOUT = 1  # file descriptor
CLOSED_OUTPUT = 141  # as shells report a command that SIGPIPE ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status. A fault the user can mend is one message on stderr, without a traceback."""
    options = parse(arguments)
    try:
        with naming_storage_faults("the file system"):
            status = options.run(options)
        # Here and not at exit, where a closed pipe could only be complained of.
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


def _output_is_closed() -> bool:
    """Whether the reader of stdout has gone, as `head` does; then what is buffered is dropped."""
    output = select.poll()
    output.register(STDOUT, 0)
    closed = any(event & select.POLLERR for _, event in output.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
    return closed


def _fail(message: str, status: int = USER_FAULT) -> int:
    print(f"segr1: {' '.join(message.split())}", file=sys.stderr)
    return status

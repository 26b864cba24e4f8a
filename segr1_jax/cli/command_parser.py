"""Parts that the parsers of all commands share."""

import argparse
import textwrap
from collections.abc import Callable
from pathlib import Path

AddParser = Callable[..., argparse.ArgumentParser]


def add_command(
    add: AddParser,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    text: str,
) -> argparse.ArgumentParser:
    """Add the command `name`, which calls `run`, and return its parser.

    Its help begins with `summary` and ends with `text` (an example, the files it writes).
    """
    command = add(
        name,
        help=summary,
        description=summary,
        epilog=textwrap.dedent(text),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(run=run)
    return command


def add_config(command: argparse.ArgumentParser, nargs: str | None = None) -> None:
    """Add the arguments CONFIG and key=value."""
    command.add_argument(
        "config",
        nargs=nargs,
        type=Path,
        metavar="CONFIG",
        help="YAML file, recipe (see segr1 recipes) or run directory",
    )
    command.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="keys to change, such as steps=100 optimizer.learning_rate=1e-5",
    )


def add_source(command: argparse.ArgumentParser) -> None:
    """Add the option --source, the weights that the command uses."""
    command.add_argument(
        "--source",
        type=Path,
        metavar="DIR",
        help="run, Hugging Face directory or ORG/NAME[@revision] (default: run_dir of CONFIG)",
    )

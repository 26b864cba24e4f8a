"""The commands that prepare a run: data, tiny, doctor, recipes and config."""

import argparse
from pathlib import Path

from segr1_jax.cli import data_actions
from segr1_jax.cli.command_parser import AddParser, add_command, add_config
from segr1_jax.config.loading import describe, dump_config, load_config
from segr1_jax.config.recipes import all_recipes, describe_recipe
from segr1_jax.config.resume_rules import config_hash


def add_commands(add: AddParser) -> None:
    """Add data, tiny, doctor, recipes and config."""
    _add_data(add)
    _add_tiny(add)
    _add_doctor(add)
    _add_recipes(add)
    _add_config(add)


def _add_data(add: AddParser) -> None:
    data = add_command(
        add,
        "data",
        data_actions.data,
        "check data sets, or write toy copies of all published ones",
        """\
        example:  segr1 data toy runs/toy
                  segr1 data check runs/toy/mine/train.jsonl
                  segr1 data check /data/segmentation
                  segr1 data check ORG/NAME@main data.split=train data.mask_column=label
        check:    every set and split, counts beside the published ones, every problem. ROOT may
                  also be a manifest (*.jsonl), a folder with images/ and masks/, or what data.path
                  takes with data.kind=hub, with keys of its columns
        toy:      all layouts at toy size, to try an evaluation
        writes:   nothing (check); the folder (toy)
        next:     segr1 eval CONFIG --suite paper eval_data.root=/data/segmentation""",
    )
    data.add_argument("action", choices=("check", "toy"))
    data.add_argument(
        "root", metavar="ROOT", help="the folder of all sets; check: or what data.path takes"
    )
    data.add_argument("overrides", nargs="*", metavar="key=value", help="check: keys of data.*")
    data.add_argument("--seed", type=int, default=0, help="toy: seed of the pictures (default 0)")
    data.add_argument(
        "--json", type=Path, metavar="FILE", help="check: write the report as JSON too"
    )


def _add_tiny(add: AddParser) -> None:
    tiny = add_command(
        add,
        "tiny",
        _run_tiny,
        "write a small random Qwen2.5-VL directory",
        """\
        example:  segr1 tiny runs/tiny
        writes:   config.json, safetensors, tokenizer, processor (a few MB)
        next:     segr1 sft quickstart_sft policy.path=runs/tiny""",
    )
    tiny.add_argument("out", type=Path, metavar="DIR", help="directory to write")
    tiny.add_argument("--seed", type=int, default=0, help="seed of the weights (default 0)")
    tiny.add_argument(
        "--frame",
        type=int,
        default=168,
        help="side of the square model frame in pixels, a multiple of 28 (default 168)",
    )


def _add_doctor(add: AddParser) -> None:
    doctor = add_command(
        add,
        "doctor",
        _run_doctor,
        "check versions, devices, conflicts, memory and disk",
        """\
        example:  segr1 doctor --python .venv-sidecar/bin/python
        prints:   one line per check (ok, warn, fail) with its remedy;
                  exit status 1 if one failed""",
    )
    doctor.add_argument(
        "--python",
        default="",
        metavar="PATH",
        help="interpreter of the SAM2 sidecar (default: this one)",
    )


def _add_recipes(add: AddParser) -> None:
    add_command(
        add,
        "recipes",
        _show_recipes,
        "list the configurations that come with the package",
        """\
        example:  segr1 recipes
        prints:   name, hardware and purpose of each; a name takes the place of a file:
                  segr1 train quickstart_grpo run_dir=runs/mine
                  segr1 config paper/rl_cod_3b > mine.yaml     to start your own""",
    )


def _add_config(add: AddParser) -> None:
    config = add_command(
        add,
        "config",
        _show_config,
        "list every key with its default, or show one configuration in full",
        """\
        example:  segr1 config                           every key and its default
                  segr1 config quickstart_grpo steps=4   the whole configuration
        writes:   nothing""",
    )
    add_config(config, nargs="?")


def _run_tiny(options: argparse.Namespace) -> int:
    """Write a small random policy."""
    from segr1_jax.hf.tiny_policy import make_tiny_policy

    make_tiny_policy(options.out, seed=options.seed, frame=options.frame)
    print(f"wrote {options.out}")
    return 0


def _show_recipes(options: argparse.Namespace) -> int:
    """Print the configurations that come with the package."""
    print("\n\n".join(map(describe_recipe, all_recipes())))
    return 0


def _run_doctor(options: argparse.Namespace) -> int:
    """Print the checks of this machine; return 1 if one failed."""
    from segr1_jax.cli.doctor import examine, report

    checks = examine(options.python)
    print(report(checks))
    return int(any(check.status == "fail" for check in checks))


def _show_config(options: argparse.Namespace) -> int:
    """Print every key, or one whole configuration."""
    if options.config is None:
        print(describe())
        return 0
    config = load_config(options.config, options.overrides)
    print(f"# hash {config_hash(config)}\n{dump_config(config)}", end="")
    return 0

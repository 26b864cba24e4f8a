"""Parsers of the commands that train: sft and train."""

from segr1_jax.cli import commands
from segr1_jax.cli.command_parser import AddParser, add_command, add_config


def add_commands(add: AddParser) -> None:
    """Add sft and train."""
    sft = add_command(
        add,
        "sft",
        commands.sft,
        "supervised cold start on answers generated from masks",
        """\
        example:  segr1 sft quickstart_sft data.level=salient run_dir=runs/salient
        writes:   the run directory (metrics.jsonl, tb/, checkpoints/, eval/, report.md)
        resume:   the same command continues from the last checkpoint
        next:     segr1 train, with policy.path set to the directory of this run""",
    )
    train = add_command(
        add,
        "train",
        commands.train,
        "GRPO: sample answers, score their masks with SAM2, update",
        """\
        example:  segr1 train quickstart_grpo rollout.group=4 run_dir=runs/group_4
        writes:   the run directory (metrics.jsonl, tb/, checkpoints/, eval/, samples/, report.md)
        resume:   the same command continues from the last checkpoint
        next:     segr1 eval, segr1 predict, segr1 export with the same configuration""",
    )
    for command in (sft, train):
        add_config(command)

"""Parsers for the commands that report the cost of a run: plan and profile."""

from pathlib import Path

from segr1_jax.cli import commands
from segr1_jax.cli.command_parser import AddParser, add_command, add_config


def add_commands(add: AddParser) -> None:
    """Add the commands plan and profile."""
    _add_plan(add)
    _add_profile(add)


def _add_plan(add: AddParser) -> None:
    plan = add_command(
        add,
        "plan",
        commands.plan,
        "memory, FLOPs and time of a run, without weights, data or the target devices",
        """\
        example:  segr1 plan paper/rl_cod_3b
                  segr1 plan paper/rl_cod_3b hardware.kind=h200 batch=48
                  segr1 plan ours/rl_cod_7b_v5e --topology v5e:8x8
                  segr1 plan ours/rl_cod_3b_one_gpu --topology h100:1 \\
                    --answer-tokens 200
        prints:   every buffer per device, the buffers that exist at the same time, whether they
                  fit, are tight or do not fit, with the keys that would make them fit, how much
                  disk and host memory checkpoints need, and the phases of a step; exit status 1
                  if the run does not fit
        compile:  replaces estimates with XLA's numbers, for TPUs (extra tpu) or GPUs (extra
                  cuda13) that are not attached, or for fake CPU devices; takes minutes
        hardware: from the configuration (hardware.kind, .hosts, .chips); the architecture comes
                  from policy.path, or else from policy.arch""",
    )
    add_config(plan)
    plan.add_argument(
        "--compile",
        action="store_true",
        help="compile the programs with XLA's CPU compiler, for as many fake devices",
    )
    plan.add_argument(
        "--topology",
        default="",
        metavar="NAME",
        help="compile them for these devices: h100:8, h100:2x8 (hosts x GPUs), v5e:8x8 (chips)",
    )
    plan.add_argument(
        "--answer-tokens",
        type=int,
        default=0,
        metavar="N",
        help="length assumed for all answers when timing the reference and the update (default: "
        "rollout.max_tokens); memory is always planned for rollout.max_tokens",
    )
    plan.add_argument(
        "--json", type=Path, metavar="FILE", help="write all numbers to this file too"
    )


def _add_profile(add: AddParser) -> None:
    profile = add_command(
        add,
        "profile",
        commands.profile,
        "the time of a step: phases, functions, MFU, an XProf trace",
        """\
        example:  segr1 profile quickstart_grpo --steps 3
        prints:   share of each phase of a step, prefill and decode; for each jitted function:
                  compilations, FLOPs, memory, seconds, MFU
        writes:   profile.md, profile.json and profile/ (the trace) in a new run directory,
                  RUN_DIR_profile_1 (2, 3, ...)
        traces:   the key profile.steps=[10,12] traces an ordinary run""",
    )
    add_config(profile)
    profile.add_argument(
        "--steps",
        type=int,
        default=3,
        metavar="N",
        help="steps to trace; as many again are then timed (default 3)",
    )
    profile.add_argument(
        "--hlo", type=Path, metavar="DIR", help="write the HLO text of each function to it"
    )
    profile.add_argument(
        "--peak-flops",
        type=float,
        metavar="X",
        help="peak FLOP/s of one device, for MFU (default: by device kind)",
    )

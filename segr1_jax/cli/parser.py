"""Parser of the command line: subcommands with few options, and help with an example of each.

Every knob of a run is a key of the configuration, so the commands of a run have no flags for knobs.
"""

import argparse

from segr1_jax import __version__
from segr1_jax.cli import cost_commands, policy_commands, setup_commands, training_commands

OVERVIEW = """\
Seg-R1 in JAX: teach Qwen2.5-VL to segment by reinforcement learning.

The commands of a run, each reading what the one before wrote:
  segr1 tiny runs/quickstart/tiny      a small random policy for tests
  segr1 sft quickstart_sft             supervised cold start from masks
  segr1 train quickstart_grpo          GRPO with mask rewards from SAM2
  segr1 eval quickstart_grpo           the table of metrics
  segr1 predict quickstart_grpo        masks, overlays, JSON
  segr1 export quickstart_grpo         a directory for transformers and vLLM
`segr1 plan` estimates before step 0 whether a run fits and how long a step takes, `segr1 profile`
measures the time of each phase; `segr1 score` computes the reward of given answers; `segr1 config`
lists every key of a configuration; `segr1 recipes` the configurations that come with the package;
`segr1 doctor` checks the machine."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser. Its result has `run`, the function of commands.py to call with it."""
    parser = argparse.ArgumentParser(
        "segr1",
        description=OVERVIEW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"segr1 {__version__}")
    add = parser.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser
    # The help lists the commands in this order.
    training_commands.add_commands(add)
    policy_commands.add_commands(add)
    cost_commands.add_commands(add)
    setup_commands.add_commands(add)
    return parser

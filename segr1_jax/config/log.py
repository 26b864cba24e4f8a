"""Where a run is logged: its own files, TensorBoard, and experiment trackers."""

from dataclasses import dataclass

from segr1_jax.common.config_fields import knob, require_choice, require_range
from segr1_jax.errors import UserError

DESTINATIONS = ("jsonl", "tensorboard", "wandb", "trackio")
# Each is an optional package; the extra that installs it has the same name.
OPTIONAL = ("wandb", "trackio")


@dataclass(frozen=True)
class LogConfig:
    """Destinations of what a run logs. They change none of its results and may change at a resume.

    Credentials and servers of wandb and trackio are set by their own environment variables and
    login commands (WANDB_MODE, WANDB_ENTITY, TRACKIO_SPACE_ID ...).
    """

    to: list = knob(
        ["jsonl", "tensorboard"],
        "destinations of metrics and of the held-out samples of each evaluation: jsonl "
        "(metrics.jsonl, figures only; required), tensorboard (tb/), wandb and trackio (extras of "
        "the same names)",
    )
    project: str = knob("segr1", "project of the run in wandb and trackio")
    completions: int = knob(
        0,
        "completions of GRPO, with their rewards, written to completions.jsonl at each step that "
        "is logged (log_every); whole groups come first, so a multiple of rollout.group shows all "
        "answers to a prompt; 0 = none",
    )

    def __post_init__(self):
        for name in self.to:
            # YAML may give anything.
            require_choice("log.to", str(name), DESTINATIONS)
        if "jsonl" not in self.to or len(set(self.to)) < len(self.to):
            raise UserError(
                "log.to",
                expected="jsonl, which resumed runs and reports read, and every name once",
                got=f"{self.to}",
                remedy=f"set log.to=[{','.join(dict.fromkeys(['jsonl', *self.to]))}]",
            )
        if not self.project:
            raise UserError(
                "log.project", expected="a name", got="nothing", remedy="remove it, or name one"
            )
        require_range("log.completions", self.completions, 0)

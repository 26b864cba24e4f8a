"""Configuration of sampling."""

from dataclasses import dataclass
from typing import Literal

from segr1_jax.common.config_fields import knob, require_range


@dataclass(frozen=True)
class RolloutConfig:
    """Sampling of completions in training; evaluation is greedy."""

    group: int = knob(8, "completions per prompt (G)")
    max_tokens: int = knob(400, "longest completion in tokens")
    weights: Literal["gathered", "sharded"] = knob(
        "gathered",
        "copy of the weights that decoding reads: gathered over fsdp once per rollout (fast), "
        "or sharded as in training (small, but gathered again for each token)",
    )
    temperature: float = knob(
        1.0, "sampling temperature; training uses the same tempered distribution"
    )
    refill: int = knob(
        0,
        "extra rollouts per step that replace groups of equal rewards with new prompts (DAPO); "
        "0 = off",
    )

    def __post_init__(self):
        require_range("rollout.group", self.group, 2)
        require_range("rollout.max_tokens", self.max_tokens, 1)
        require_range("rollout.temperature", self.temperature, 1e-3)
        require_range("rollout.refill", self.refill, 0)

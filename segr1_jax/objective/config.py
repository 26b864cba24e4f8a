"""Configuration of the GRPO objective and of the optimizer."""

from dataclasses import dataclass
from typing import Literal

from segr1_jax.common.config_fields import knob, require_range


@dataclass(frozen=True)
class ObjectiveConfig:
    """GRPO objective. The defaults are the loss of Seg-R1.

    That loss is the mean over completions of the mean over tokens of
    -(min(ratio A, clip(ratio) A) - beta k3).

    DAPO: aggregation token_mean, clip_high 0.28, beta 0 (and rollout.refill).
    Dr.GRPO: aggregation constant, scale none, beta 0.
    """

    beta: float = knob(
        0.04, "weight of the KL to the reference policy; 0 switches the reference off"
    )
    kl: Literal["k3", "k2"] = knob(
        "k3",
        "estimator of that KL in the loss: k3 or k2 (objective/kl.py explains their gradients)",
    )
    clip_low: float = knob(
        0.2, "the ratio is clipped at 1 - clip_low (inactive with one update per rollout)"
    )
    clip_high: float = knob(
        0.2, "the ratio is clipped at 1 + clip_high; above clip_low it is DAPO's clip-higher"
    )
    aggregation: Literal["completion_mean", "token_mean", "constant"] = knob(
        "completion_mean",
        "tokens to loss: completion_mean (GRPO: mean over completions of the mean of each), "
        "token_mean (DAPO: one mean over all tokens), "
        "constant (Dr.GRPO: mean over completions of the sum of each over rollout.max_tokens)",
    )
    scale: Literal["std", "none"] = knob(
        "std",
        "advantages: divided by the group's standard deviation (std), or only centred "
        "(none, Dr.GRPO)",
    )
    updates_per_rollout: int = knob(
        1, "optimizer updates on each rollout, each on the whole rollout (GRPO's mu)"
    )

    def __post_init__(self):
        require_range("objective.beta", self.beta, 0)
        require_range("objective.clip_low", self.clip_low, 0, 1)
        require_range("objective.clip_high", self.clip_high, 0)
        require_range("objective.updates_per_rollout", self.updates_per_rollout, 1)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a constant or cosine schedule after a linear warm-up."""

    learning_rate: float = knob(1e-6, "peak learning rate")
    schedule: Literal["constant", "cosine"] = knob(
        "constant", "constant or cosine (to zero at the last update)"
    )
    warmup_steps: int = knob(0, "updates of linear warm-up")
    b1: float = knob(0.9, "AdamW beta 1")
    b2: float = knob(0.999, "AdamW beta 2")
    eps: float = knob(1e-8, "AdamW epsilon")
    weight_decay: float = knob(0.0, "decoupled weight decay")
    max_grad_norm: float = knob(1.0, "gradients are clipped to this global norm")
    moments: Literal["device", "host"] = knob(
        "device",
        "where the moments are kept: device, or host (pinned memory; 8 bytes less for each trained "
        "weight on the devices, and a copy of the moments there and back for each update)",
    )
    first_moment: Literal["float32", "bfloat16"] = knob(
        "float32",
        "dtype of the first moment; the second is float32 always (in bfloat16 a factor of b2 near "
        "1 rounds to no change)",
    )

    def __post_init__(self):
        require_range("optimizer.learning_rate", self.learning_rate, 0)
        require_range("optimizer.max_grad_norm", self.max_grad_norm, 1e-9)
        require_range("optimizer.warmup_steps", self.warmup_steps, 0)
        for name in ("b1", "b2"):
            require_range(f"optimizer.{name}", getattr(self, name), 0, 1)

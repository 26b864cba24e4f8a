"""The GRPO objective."""

from dataclasses import dataclass

from segr1_jax.knobs import knob, require_range


@dataclass(frozen=True)
class ObjectiveConfig:
    """Seg-R1's loss: mean over completions of the token mean of -(min(ratio A, clip(ratio) A) - beta k3)."""

    beta: float = knob(0.04, "weight of the k3 KL to the reference policy; 0 switches the reference off")
    clip: float = knob(0.2, "the ratio is clipped to [1 - clip, 1 + clip] (inactive with one update per rollout)")

    def __post_init__(self):
        require_range("objective.beta", self.beta, 0)
        require_range("objective.clip", self.clip, 0, 1)

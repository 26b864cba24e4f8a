"""Configuration of the weights that are trained."""

from dataclasses import dataclass
from typing import Literal

from segr1_jax.common.config_fields import knob, require_range

Remat = Literal["none", "products", "full"]
"""What the backward pass recomputes: nothing, all but the values named PRODUCT, or whole layers."""
PRODUCT = "product"


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters on every linear map of the language model (Hu et al., 2021).

    y = x W + (alpha / rank) x A B
    """

    rank: int = knob(0, "rank of the adapters; 0 = none, the weights themselves are trained")
    alpha: float = knob(32.0, "adapters are scaled by alpha / rank")

    def __post_init__(self):
        require_range("policy.lora.rank", self.rank, 0, 1024)
        require_range("policy.lora.alpha", self.alpha, 1e-6)

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

"""segr1_jax: Seg-R1, segmentation by reinforcement learning alone, in JAX/Flax.

The frozen SAM2 that gives the reward runs in a sidecar process.

    policy = segr1_jax.load("runs/quickstart/grpo")
    policy.segment("photo.jpg", "the cup behind the laptop").mask

The interface is that of segr1_jax/api.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["Scorer", "Segmentation", "Segmenter", "load", "score", "train"]


def __getattr__(name: str) -> Any:
    # Importing the package loads neither JAX nor the interface (PEP 562): the sidecar imports it.
    if name in __all__:
        return getattr(importlib.import_module("segr1_jax.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

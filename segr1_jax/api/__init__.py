"""The Python interface: what `import segr1_jax` offers beside the commands."""

from segr1_jax.api.scoring import Scorer, score
from segr1_jax.api.segmenter import Segmentation, Segmenter, load
from segr1_jax.api.training import train

__all__ = ["Scorer", "Segmentation", "Segmenter", "load", "score", "train"]

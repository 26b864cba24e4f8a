"""segr1_jax: Seg-R1, segmentation by reinforcement learning alone, in JAX/Flax.

The frozen SAM2 that gives the reward runs in a sidecar process.
"""

__version__ = "0.1.0"

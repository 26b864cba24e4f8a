"""segr1_jax: Seg-R1 (segmentation by reinforcement learning alone) in JAX/Flax, with the frozen SAM2 reward in a sidecar process."""

__version__ = "0.1.0"

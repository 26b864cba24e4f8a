"""The reward and the SAM2 sidecar that computes its mask terms."""

from dataclasses import dataclass

from segr1_jax.knobs import knob, require_choice, require_range


@dataclass(frozen=True)
class RewardWeights:
    """total = format * (0 or 1) + iou * IoU + s_measure * S; the paper's values are the defaults."""

    format: float = knob(1.0, "weight of the format term")
    iou: float = knob(0.7, "weight of the mask IoU")
    s_measure: float = knob(0.3, "weight of the S-measure (alpha 0.5)")


@dataclass(frozen=True)
class RewardConfig:
    """The SAM2 sidecar. An empty path means the nano SAM2 that ships with the package."""

    weights: RewardWeights = RewardWeights()
    sam2_config: str = knob(
        "", "SAM2 model: a YAML path, or a name inside the sam2 package such as configs/sam2.1/sam2.1_hiera_l.yaml; empty = nano"
    )
    sam2_checkpoint: str = knob("", "weights: .pt or .safetensors; empty = nano")
    postprocessing: bool = knob(
        True, "apply build_sam2's dynamic-multimask overrides (off for models whose only trained mask is the single one)"
    )
    python: str = knob(
        "",
        "interpreter of the sidecar; empty = the trainer's own. Another one needs torch, sam2 and `pip install --no-deps` of this package",
    )
    device: str = knob("cpu", "torch device of the sidecar: cpu, cuda or cuda:N")
    dtype: str = knob("float32", "float32, or bfloat16 (autocast)")
    threads: int = knob(1, "torch threads of the sidecar")
    legacy: bool = knob(
        False, "reward as the reference code does, faults included (reward/legacy.py); needs prompt.frame=756. Held-out figures stay right"
    )
    max_side: int = knob(1024, "longest side in pixels at which masks are scored; larger images are scaled down with their masks")
    cache_mb: int = knob(256, "budget in MB for image embeddings kept by content hash")
    queue: int = knob(64, "requests in flight before submit waits")
    start_timeout_s: float = knob(120.0, "seconds until a sidecar that does not come up is an error")
    request_timeout_s: float = knob(60.0, "seconds until an unanswered request restarts the sidecar")

    def __post_init__(self):
        require_choice("reward.dtype", self.dtype, ("float32", "bfloat16"))
        require_range("reward.threads", self.threads, 1)
        require_range("reward.queue", self.queue, 1)
        require_range("reward.max_side", self.max_side, 16)
        require_range("reward.start_timeout_s", self.start_timeout_s, 1)
        require_range("reward.request_timeout_s", self.request_timeout_s, 1)

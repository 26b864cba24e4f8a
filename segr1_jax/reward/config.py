"""The reward and the SAM2 sidecar that computes its mask terms."""

import re
from collections import Counter
from dataclasses import dataclass, replace

from segr1_jax.common.config_fields import knob, require_choice, require_range
from segr1_jax.errors import UserError
from segr1_jax.reward.transport.protocol import MAX_SIDE

CONTEXTS_SHARE = (
    0.05  # of a GPU's memory: the CUDA contexts and library workspaces of both processes
)


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
        "",
        "SAM2 model: a YAML path, or a name inside the sam2 package such as configs/sam2.1/sam2.1_hiera_l.yaml; empty = nano",
        path=True,
    )
    sam2_checkpoint: str = knob("", "weights: .pt or .safetensors; empty = nano", path=True)
    postprocessing: bool = knob(
        True,
        "apply build_sam2's dynamic-multimask overrides (off for models whose only trained mask is the single one)",
    )
    python: str = knob(
        "",
        "interpreter of the sidecar; empty = the trainer's own. Another one needs torch, sam2 and "
        "`pip install --no-deps` of this package",
        path=True,
    )
    sidecars: int = knob(
        0,
        "sidecar processes of each training process; 0 = one for each of `device`. "
        "An image always goes to the same one",
    )
    device: str = knob(
        "cpu",
        "torch devices, dealt to the sidecars in turn: cpu, cuda:N, cuda (every GPU that the "
        "process sees), or several with commas",
    )
    dtype: str = knob("float32", "float32, or bfloat16 (autocast)")
    threads: int = knob(1, "torch threads of a sidecar")
    gpu_memory: float = knob(
        0.2,
        "share of a GPU that SAM2 may take; JAX gets the rest but for 0.05 (unless XLA_PYTHON_CLIENT_MEM_FRACTION is set)",
    )
    decode_batch: int = knob(
        0, "prompts of one answer decoded together; 0 = by device (1 on a CPU, 16 on a GPU)"
    )
    legacy: bool = knob(
        False,
        "reward as the reference code does, faults included (reward/legacy.py); needs prompt.frame=756. Held-out figures stay right",
    )
    max_side: int = knob(
        1024,
        "longest side in pixels at which masks are scored; larger images are scaled down with their masks. "
        "eval, predict and demo make masks at native size whatever it is",
    )
    cache_mb: int = knob(
        1024, "budget in MB for image embeddings on the device, kept by content hash"
    )
    host_cache_mb: int = knob(
        4096, "budget in MB for embeddings moved from a GPU to host memory; without effect on a CPU"
    )
    cache_dir: str = knob(
        "",
        "folder for embeddings on disk, good over several runs; empty = none. Sidecars and hosts may share it",
        path=True,
    )
    cache_dir_gb: float = knob(
        50.0,
        "budget in GB of cache_dir for one model and device; the longest unread embeddings go first",
    )
    queue: int = knob(256, "requests in flight before submit waits")
    start_timeout_s: float = knob(
        120.0, "seconds until a sidecar that does not come up is an error"
    )
    request_timeout_s: float = knob(
        60.0,
        "seconds until an unanswered request restarts the sidecar; at least five times what its "
        "encode at start-up took",
    )
    heartbeat_timeout_s: float = knob(
        20.0, "seconds without a sign of life until the sidecar is restarted"
    )

    def placed(self, gpus: int) -> "RewardConfig":
        """The same with `sidecars` and `device` spelt out for a process that sees `gpus` GPUs.

        Example:
            >>> RewardConfig(device="cuda").placed(2).device
            'cuda:0,cuda:1'
        """
        named = []
        for name in self.device.split(","):
            everywhere = [f"cuda:{index}" for index in range(gpus)]
            named += everywhere if name.strip() == "cuda" else [name.strip()]
        count = self.sidecars or len(named)
        dealt = [named[index % len(named)] for index in range(count)]
        return replace(self, sidecars=count, device=",".join(dealt))

    def at_native_size(self) -> "RewardConfig":
        """The same for masks that are kept: those of SAM2's own predictor, whatever bounds the cost of rewards."""
        return replace(self, max_side=MAX_SIDE)

    @property
    def devices(self) -> tuple[str, ...]:
        """The device of each sidecar, once `placed`."""
        return tuple(self.device.split(","))

    @property
    def share_of_jax(self) -> float | None:
        """The part of a GPU's memory left to JAX where sidecars run on GPUs, once `placed`; None where they do not."""
        on_gpus = Counter(name for name in self.devices if name.startswith("cuda"))
        return 1 - CONTEXTS_SHARE - self.gpu_memory * max(on_gpus.values()) if on_gpus else None

    def __post_init__(self):
        for name in self.device.split(","):
            if not re.fullmatch(r"cpu|cuda(:\d+)?", name.strip()):
                got = repr(self.device)
                raise UserError(
                    "reward.device",
                    expected="cpu, cuda or cuda:N, or several with commas",
                    got=got,
                    remedy="name torch devices",
                )
        require_choice("reward.dtype", self.dtype, ("float32", "bfloat16"))
        require_range("reward.threads", self.threads, 1)
        require_range("reward.queue", self.queue, 1)
        require_range("reward.max_side", self.max_side, 16)
        require_range("reward.start_timeout_s", self.start_timeout_s, 1)
        require_range("reward.request_timeout_s", self.request_timeout_s, 1)
        require_range("reward.heartbeat_timeout_s", self.heartbeat_timeout_s, 1)
        require_range("reward.sidecars", self.sidecars, 0)
        require_range("reward.decode_batch", self.decode_batch, 0)
        require_range("reward.gpu_memory", self.gpu_memory, 0.01, 0.9)
        if self.share_of_jax is not None:
            require_range(
                "reward.gpu_memory (what its sidecars leave to JAX)", self.share_of_jax, 0.05, 1
            )

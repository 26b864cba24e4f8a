"""Configuration of the reward and of the SAM2 sidecar that computes its mask terms."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

from segr1_jax.common.config_fields import knob, others, require_range
from segr1_jax.errors import UserError
from segr1_jax.reward.term_entries import (
    BUILT_IN,
    check_entries,
    check_left_out,
    check_weights,
    term_name,
)
from segr1_jax.reward.transport.protocol import MAX_SIDE

# Share of a GPU's memory taken by the CUDA contexts and library workspaces of both processes.
CONTEXTS_SHARE = 0.05


@dataclass(frozen=True)
class RewardWeights:
    """Weights of the terms; defaults of the paper.

    Every key but the first three is the name of an own term, so that all weights are set alike:
    reward.weights.iou=0.5, reward.weights.my_term=0.2.
    """

    format: float = knob(1.0, "weight of the format term")
    iou: float = knob(0.7, "weight of the mask IoU")
    s_measure: float = knob(0.3, "weight of the S-measure (alpha 0.5)")
    own: dict = others(float, "weight of an own term of reward.terms; 0 only logs it")


@dataclass(frozen=True)
class RewardConfig:
    """Settings of the SAM2 sidecar. Empty paths select the nano SAM2 shipped with the package."""

    terms: list = knob(
        list(BUILT_IN),
        "terms that are added up, times their weights: format, iou, s_measure, and own ones as "
        "FILE.py:FUNCTION (reward/README.md), each with a weight in reward.weights. A file is "
        "looked up in the working directory, then beside the configuration",
    )
    weights: RewardWeights = RewardWeights()
    term_files: dict = knob(
        {},
        "file and content hash of each own term, written when a configuration is read; a resumed "
        "run needs the same content",
    )
    term_timeout_s: float = knob(10.0, "seconds that an own term may take for one answer")
    sam2: str = knob(
        "",
        "SAM2 on the Hugging Face Hub, its configuration and weights in one: ORG/NAME[@revision], "
        "such as facebook/sam2.1-hiera-large; empty = sam2_config and sam2_checkpoint",
    )
    sam2_config: str = knob(
        "",
        "SAM2 model: a YAML path, or a name inside the sam2 package such as "
        "configs/sam2.1/sam2.1_hiera_l.yaml; empty = nano",
        path=True,
    )
    sam2_checkpoint: str = knob("", "weights: .pt or .safetensors; empty = nano", path=True)
    postprocessing: bool = knob(
        True,
        "apply build_sam2's dynamic-multimask overrides (set to false for models trained for the "
        "single mask only)",
    )
    python: str = knob(
        "",
        "interpreter of the sidecar; empty = that of the trainer, or of .venv-sidecar beside it if "
        "the trainer has no torch (launch/setup.sh cuda12). Any other one needs "
        "torch, sam2 and `pip install --no-deps` of this package",
        path=True,
    )
    sidecars: int = knob(
        0,
        "sidecar processes of each training process; 0 = one for each entry of `device`. "
        "All requests for one image go to the same sidecar",
    )
    device: str = knob(
        "cpu",
        "torch devices, assigned to the sidecars in turn: cpu, cuda:N, cuda (every GPU that the "
        "process sees), or several separated by commas",
    )
    dtype: Literal["float32", "bfloat16"] = knob("float32", "float32, or bfloat16 (autocast)")
    threads: int = knob(1, "torch threads of a sidecar")
    gpu_memory: float = knob(
        0.2,
        "share of a GPU's memory for SAM2; JAX gets the remainder less 0.05 (unless "
        "XLA_PYTHON_CLIENT_MEM_FRACTION is set)",
    )
    decode_batch: int = knob(
        0, "prompts of one answer decoded together; 0 = by device (1 on a CPU, 16 on a GPU)"
    )
    legacy: bool = knob(
        False,
        "compute the reward as the reference code does, including its faults (reward/legacy.py); "
        "needs prompt.frame=756. Held-out metrics are not affected",
    )
    max_side: int = knob(
        1024,
        "longest side in pixels at which masks are scored; larger images are scaled down with "
        "their masks. eval, predict and demo always compute masks at native size",
    )
    cache_mb: int = knob(
        1024, "budget in MB for image embeddings on the device, kept by content hash"
    )
    host_cache_mb: int = knob(
        4096, "budget in MB for embeddings moved from a GPU to host memory; no effect on a CPU"
    )
    cache_dir: str = knob(
        "",
        "folder for embeddings on disk, kept between runs; empty = none. Several sidecars and "
        "hosts may share it",
        path=True,
    )
    cache_dir_gb: float = knob(
        50.0,
        "budget in GB of cache_dir for one model and device; the least recently read embeddings "
        "are deleted first",
    )
    queue: int = knob(256, "requests in flight before submit waits")
    start_timeout_s: float = knob(120.0, "seconds that a sidecar may take to start")
    request_timeout_s: float = knob(
        60.0,
        "seconds until an unanswered request restarts the sidecar; at least five times the "
        "duration of the encode at start-up",
    )
    heartbeat_timeout_s: float = knob(
        20.0, "seconds without a heartbeat until the sidecar is restarted"
    )

    def placed(self, gpus: int) -> "RewardConfig":
        """Return a copy with `sidecars` and `device` resolved for a process that sees `gpus` GPUs.

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
        """Return a copy that computes masks at native size, as SAM2's own predictor does.

        Evaluation and prediction keep their masks; `max_side` only bounds the cost of rewards.
        """
        return replace(self, max_side=MAX_SIDE)

    @property
    def term_weights(self) -> dict[str, float]:
        """The weight of each term by its name, in the order in which they are added up."""
        weights = {name: getattr(self.weights, name) for name in BUILT_IN} | self.weights.own
        return {name: weights[name] for name in map(term_name, self.terms)}

    @property
    def devices(self) -> tuple[str, ...]:
        """The device of each sidecar. Valid after `placed`."""
        return tuple(self.device.split(","))

    @property
    def share_of_jax(self) -> float | None:
        """The share of a GPU's memory for JAX, or None if no sidecar runs on a GPU.

        Valid after `placed`.
        """
        on_gpus = Counter(name for name in self.devices if name.startswith("cuda"))
        return 1 - CONTEXTS_SHARE - self.gpu_memory * max(on_gpus.values()) if on_gpus else None

    def __post_init__(self):
        if self.sam2 and (self.sam2_config or self.sam2_checkpoint):
            raise UserError(
                "reward.sam2",
                expected="a repository, or local files in sam2_config and sam2_checkpoint",
                got="both",
                remedy="leave one of the two empty",
            )
        for name in self.device.split(","):
            if not re.fullmatch(r"cpu|cuda(:\d+)?", name.strip()):
                raise UserError(
                    "reward.device",
                    expected="cpu, cuda or cuda:N, or several separated by commas",
                    got=repr(self.device),
                    remedy="name torch devices",
                )
        check_entries(self.terms)
        check_weights(self.terms, self.weights.own)
        check_left_out(self.terms, vars(self.weights), vars(RewardWeights()))
        require_range("reward.term_timeout_s", self.term_timeout_s, 0.01)
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
                "reward.gpu_memory (share of a GPU's memory for JAX)", self.share_of_jax, 0.05, 1
            )

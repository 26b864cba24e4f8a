"""The whole configuration of a run, composed of the configurations of its stages."""

from dataclasses import dataclass, field
from typing import Literal

from segr1_jax.common.config_fields import knob, require_range, section
from segr1_jax.common.hub_ids import is_commit
from segr1_jax.config.hardware import HardwareConfig
from segr1_jax.config.log import LogConfig
from segr1_jax.data.config import DataConfig, LoaderConfig
from segr1_jax.errors import UserError
from segr1_jax.objective.config import ObjectiveConfig, OptimizerConfig
from segr1_jax.policy.config import LoraConfig, Remat
from segr1_jax.prompt.config import PromptConfig, Task
from segr1_jax.reward.config import RewardConfig
from segr1_jax.rollout.config import RolloutConfig


@dataclass(frozen=True)
class PolicyConfig:
    """Initial weights, precision and trained parts of the policy.

    The architecture is read from config.json only.
    """

    path: str = knob(
        "",
        "Hugging Face directory (config.json, safetensors, tokenizer) or run directory to start "
        "from, or ORG/NAME[@revision] on the Hugging Face Hub",
        path=True,
    )
    arch: str = knob(
        "",
        "architecture for `segr1 plan` if policy.path does not exist: a name in configs/arch, or a "
        "config.json",
    )
    compute_dtype: Literal["float32", "bfloat16"] = knob(
        "bfloat16", "float32 or bfloat16; master weights and optimizer stay float32"
    )
    remat: Remat = knob(
        "full",
        "what the backward pass recomputes: full (whole layers; least memory), products (all "
        "but the results of linear maps and fused attention, which are kept) or none",
    )
    head_chunk: int = knob(16, "completion positions per chunk of the vocabulary projection")
    attention: Literal["auto", "xla", "cudnn", "splash"] = knob(
        "auto",
        "attention kernel of training: xla (anywhere), cudnn (NVIDIA GPUs, with "
        "compute_dtype=bfloat16) or splash (TPUs); same results; auto = cudnn where it can run, "
        "else xla",
    )
    tower: Literal["trained", "frozen"] = knob(
        "trained",
        "vision tower: trained, or frozen (its features are then computed once per step)",
    )
    lora: LoraConfig = section(LoraConfig, "adapters instead of full training; needs tower=frozen")

    def __post_init__(self):
        if self.lora.rank and self.tower != "frozen":
            expected = "frozen with policy.lora.rank, which trains adapters only"
            raise UserError(
                "policy.tower", expected=expected, got=self.tower, remedy="set policy.tower=frozen"
            )
        if self.attention == "cudnn" and self.compute_dtype != "bfloat16":
            expected = "bfloat16 with policy.attention=cudnn, which does not support float32"
            raise UserError(
                "policy.compute_dtype",
                expected=expected,
                got=self.compute_dtype,
                remedy="set it, or policy.attention=xla",
            )
        require_range("policy.head_chunk", self.head_chunk, 1)


@dataclass(frozen=True)
class GuardConfig:
    """Bounds of updates.

    An update that exceeds one, or has numbers that are not finite, is skipped: weights and moments
    do not change, and its batch is written to incidents/.
    """

    max_kl: float = knob(
        0.0,
        "skip an update if the mean KL to the reference is above this (nats per token); 0 = off",
    )
    max_grad_norm: float = knob(
        0.0, "skip an update whose gradient has a norm above this, before clipping; 0 = off"
    )
    in_a_row: int = knob(5, "updates skipped in a row that end the run")
    rate: float = knob(
        0.05,
        "share of steps with a skipped update that ends the run, once there are more than in_a_row",
    )

    def __post_init__(self):
        for name in ("max_kl", "max_grad_norm"):
            require_range(f"guard.{name}", getattr(self, name), 0)
        require_range("guard.in_a_row", self.in_a_row, 1)
        require_range("guard.rate", self.rate, 0, 1)


@dataclass(frozen=True)
class MeshConfig:
    """Axis sizes of the device mesh.

    data x fsdp x tensor must be the number of devices. One of them may be -1: the remainder.
    """

    data: int = knob(1, "replicas of the weights; the batch is split over data and fsdp")
    fsdp: int = knob(-1, "shards of weights and optimizer state")
    tensor: int = knob(1, "split of heads and hidden units inside a layer")


@dataclass(frozen=True)
class SftConfig:
    """Supervised cold start on answers generated from masks."""

    interior_points: int = knob(2, "foreground points per answer")
    exterior_points: int = knob(1, "background points per answer")
    second_task: Literal["", Task] = knob(
        "",
        "prompt.task that every second sample is trained on as well (prerl: points only), so that "
        "the policy learns both grammars",
    )
    box_margin: float = knob(
        0.0,
        "margin of a box on every side, as a share of the width and height of its object; "
        "0 = tight",
    )

    def __post_init__(self):
        require_range("sft.interior_points", self.interior_points, 1, 32)
        require_range("sft.exterior_points", self.exterior_points, 0, 32)
        require_range("sft.box_margin", self.box_margin, 0, 1)


@dataclass(frozen=True)
class ProfileConfig:
    """XProf trace of an ordinary run, in profile/ of the run directory.

    It does not change the results of the run.
    """

    steps: list = knob(
        [], "trace from the first to the last of these two steps, such as [10, 12]; empty = off"
    )

    def __post_init__(self):
        whole = all(type(step) is int for step in self.steps)
        if self.steps and not (
            whole and len(self.steps) == 2 and 1 <= self.steps[0] <= self.steps[1]
        ):
            expected = "two step numbers [first, last], counted from 1, or []"
            raise UserError(
                "profile.steps",
                expected=expected,
                got=str(self.steps),
                remedy="write for example profile.steps=[10,12]",
            )


@dataclass(frozen=True)
class RunConfig:
    """Configuration of a training run.

    `segr1 sft` and `segr1 train` read the same schema; each ignores the section of the other stage.
    """

    run_dir: str = knob("runs/default", "directory of everything the run writes")
    stage: Literal["sft", "grpo"] = knob("grpo", "sft or grpo")
    seed: int = knob(0, "seed of data order, sampling and initialization")
    steps: int = knob(100, "batches to train on: one update each, or objective.updates_per_rollout")
    batch: int = knob(24, "prompts per update, over all processes")
    micro_batches: int = knob(
        1,
        "gradient accumulation: number of parts of a batch; the gradient of one part is computed "
        "while the next one is scored",
    )
    eval_every: int = knob(
        0, "steps between evaluations; 0 = only before the first step and after the last"
    )
    eval_limit: int = knob(
        0, "held-out samples of an evaluation during training, spread over the set; 0 = all"
    )
    eval_max_tokens: int = knob(
        0, "longest answer of an evaluation in tokens; 0 = rollout.max_tokens"
    )
    eval_first: bool = knob(True, "evaluate before the first step")
    save_every: int = knob(50, "steps between checkpoints")
    keep: int = knob(2, "number of newest checkpoints to keep")
    keep_best: int = knob(
        0,
        "number of evaluated steps of the highest held-out IoU whose weights are kept in best/",
    )
    checkpoint_dir: str = knob(
        "",
        "location of the checkpoints: a folder, or an object store such as gs://bucket/run; "
        "empty = in run_dir",
        path=True,
    )
    checkpoint_check: Literal["stop", "step_before", "off"] = knob(
        "stop",
        "action if the checkpoint to resume from fails its checksums: stop, step_before (resume "
        "from an earlier one) or off (do not verify)",
    )
    compile_cache: str = knob(
        "",
        "folder of compiled programs; several hosts need a shared one, since only the first "
        "process writes it; empty = ~/.cache/segr1_jax/xla, or JAX_COMPILATION_CACHE_DIR",
        path=True,
    )
    log_every: int = knob(1, "steps between metric lines")
    log: LogConfig = section(LogConfig, "destinations of metrics, pictures and completions")
    deterministic: bool = knob(
        True,
        "bitwise reproducible: deterministic operations if the backend has them; XLA does not "
        "autotune on GPUs then",
    )
    commits: dict = knob(
        {},
        "commit of each repository on the Hub by its name as it was given; the run records it, so "
        "that it resumes from the same files where a branch moves",
    )
    policy: PolicyConfig = section(PolicyConfig, "the policy")
    data: DataConfig = section(DataConfig, "training data")
    eval_data: DataConfig = field(
        default_factory=lambda: DataConfig(count=200, seed=1), metadata={"doc": "held-out data"}
    )
    eval_batch: int = knob(25, "prompts per evaluation batch")
    loader: LoaderConfig = section(LoaderConfig, "loading ahead")
    prompt: PromptConfig = section(PromptConfig, "prompt and image frame")
    rollout: RolloutConfig = section(RolloutConfig, "sampling")
    reward: RewardConfig = section(RewardConfig, "reward and SAM2 sidecar")
    objective: ObjectiveConfig = section(ObjectiveConfig, "GRPO objective")
    optimizer: OptimizerConfig = section(OptimizerConfig, "optimizer")
    guard: GuardConfig = section(GuardConfig, "updates that are skipped")
    sft: SftConfig = section(SftConfig, "answers generated from masks")
    mesh: MeshConfig = section(MeshConfig, "device mesh")
    hardware: HardwareConfig = section(HardwareConfig, "hardware that `segr1 plan` assumes")
    profile: ProfileConfig = section(ProfileConfig, "trace of an ordinary run")

    def __post_init__(self):
        for name in (
            "steps",
            "batch",
            "micro_batches",
            "save_every",
            "keep",
            "log_every",
            "eval_batch",
        ):
            require_range(name, getattr(self, name), 1)
        if not all(map(is_commit, self.commits.values())):
            raise UserError(
                "commits",
                expected="hashes of commits by names on the Hub",
                got=str(self.commits)[:200],
                remedy="leave it out; a run writes it itself",
            )
        for name in ("seed", "eval_every", "eval_limit", "eval_max_tokens", "keep_best"):
            require_range(name, getattr(self, name), 0)

    @property
    def answer_tokens(self) -> int:
        """The largest number of tokens of an answer in an evaluation."""
        return self.eval_max_tokens or self.rollout.max_tokens

    @property
    def updates(self) -> int:
        """The number of optimizer updates of the whole run, which the schedule counts."""
        return self.steps * (self.objective.updates_per_rollout if self.stage == "grpo" else 1)

"""The whole configuration of a run, composed of the stages' own."""

from dataclasses import dataclass, field

from segr1_jax.common.config_fields import knob, require_choice, require_range, section
from segr1_jax.config.hardware import HardwareConfig
from segr1_jax.data.config import DataConfig, LoaderConfig
from segr1_jax.errors import UserError
from segr1_jax.objective.config import ObjectiveConfig, OptimizerConfig
from segr1_jax.policy.config import LoraConfig
from segr1_jax.prompt.config import TASKS, PromptConfig
from segr1_jax.reward.config import RewardConfig
from segr1_jax.rollout.config import RolloutConfig


@dataclass(frozen=True)
class PolicyConfig:
    """Which weights to start from and in which precision to compute. The architecture comes from config.json alone."""

    path: str = knob(
        "",
        "Hugging Face directory (config.json, safetensors, tokenizer) or a run directory to start from",
        path=True,
    )
    arch: str = knob(
        "",
        "what `segr1 plan` takes where policy.path is not there: a name in configs/arch, or a config.json",
    )
    compute_dtype: str = knob(
        "bfloat16", "float32 or bfloat16; master weights and optimiser stay float32"
    )
    remat: bool = knob(True, "recompute layer activations in the backward pass")
    head_chunk: int = knob(16, "completion positions per chunk of the vocabulary projection")
    attention: str = knob(
        "xla",
        "how training attends: xla (anywhere), cudnn (NVIDIA GPUs, with compute_dtype=bfloat16) or splash (TPUs); same results",
    )
    tower: str = knob(
        "trained",
        "vision tower: trained, or frozen (its features are computed once per step, for all that need them)",
    )
    lora: LoraConfig = section(LoraConfig, "adapters instead of full training; needs tower=frozen")

    def __post_init__(self):
        require_choice("policy.tower", self.tower, ("trained", "frozen"))
        if self.lora.rank and self.tower != "frozen":
            expected = "frozen where policy.lora.rank is set: adapters are all that is trained"
            raise UserError(
                "policy.tower", expected=expected, got=self.tower, remedy="set policy.tower=frozen"
            )
        require_choice("policy.compute_dtype", self.compute_dtype, ("float32", "bfloat16"))
        require_choice("policy.attention", self.attention, ("xla", "cudnn", "splash"))
        if self.attention == "cudnn" and self.compute_dtype != "bfloat16":
            expected = "bfloat16 with policy.attention=cudnn, which knows no float32"
            raise UserError(
                "policy.compute_dtype",
                expected=expected,
                got=self.compute_dtype,
                remedy="set it, or policy.attention=xla",
            )
        require_range("policy.head_chunk", self.head_chunk, 1)


@dataclass(frozen=True)
class GuardConfig:
    """An update with numbers that are not finite, or past a bound, is skipped: weights and moments stay, incidents/ keeps the batch."""

    max_kl: float = knob(
        0.0,
        "skip an update where the mean KL to the reference is above this (nats per token); 0 = off",
    )
    max_grad_norm: float = knob(
        0.0, "skip an update whose gradient has a norm above this, before clipping; 0 = off"
    )
    in_a_row: int = knob(5, "updates skipped in a row that end the run")
    rate: float = knob(
        0.05,
        "share of all steps with a skipped update that ends the run, once they are more than in_a_row",
    )

    def __post_init__(self):
        for name in ("max_kl", "max_grad_norm"):
            require_range(f"guard.{name}", getattr(self, name), 0)
        require_range("guard.in_a_row", self.in_a_row, 1)
        require_range("guard.rate", self.rate, 0, 1)


@dataclass(frozen=True)
class MeshConfig:
    """Device mesh: data x fsdp x tensor must be the number of devices; one of them may be -1 (the rest)."""

    data: int = knob(1, "replicas of the weights; the batch is split over data and fsdp")
    fsdp: int = knob(-1, "shards of weights and optimiser state")
    tensor: int = knob(1, "split of heads and hidden units inside a layer")


@dataclass(frozen=True)
class SftConfig:
    """Supervised cold start on answers made from masks."""

    interior_points: int = knob(2, "foreground points per answer")
    exterior_points: int = knob(1, "background points per answer")
    second_task: str = knob(
        "",
        "every other sample is asked and answered in this prompt.task too (prerl: points alone), so that the policy knows both grammars",
    )
    box_margin: float = knob(
        0.0,
        "boxes are wider than their object by this share of its width and height on every side; 0 = tight",
    )

    def __post_init__(self):
        require_range("sft.interior_points", self.interior_points, 1, 32)
        require_range("sft.exterior_points", self.exterior_points, 0, 32)
        require_range("sft.box_margin", self.box_margin, 0, 1)
        require_choice("sft.second_task", self.second_task, ("", *TASKS))


@dataclass(frozen=True)
class ProfileConfig:
    """An XProf trace of an ordinary run, in profile/ of the run directory; it changes nothing that is computed."""

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
    """A training run. `segr1 sft` and `segr1 train` read the same schema; each ignores the other's stage section."""

    run_dir: str = knob("runs/default", "everything the run writes goes here")
    stage: str = knob("grpo", "sft or grpo")
    seed: int = knob(0, "seed of data order, sampling and initialisation")
    steps: int = knob(100, "batches to train on: an update each, or objective.updates_per_rollout")
    batch: int = knob(24, "prompts per update, over all processes")
    micro_batches: int = knob(
        1,
        "gradient accumulation: the batch is cut into this many parts; a part is differentiated while the next is rewarded",
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
    keep: int = knob(2, "checkpoints kept: the newest")
    keep_best: int = knob(
        0,
        "weights kept besides, in best/: those of the evaluated steps of the highest held-out IoU",
    )
    checkpoint_dir: str = knob(
        "",
        "where checkpoints go: a folder, or an object store such as gs://bucket/run; empty = in run_dir",
        path=True,
    )
    checkpoint_check: str = knob(
        "stop",
        "where a checkpoint to resume from fails its checksums: stop, step_before (go on from an "
        "earlier one) or off (not verified)",
    )
    compile_cache: str = knob(
        "",
        "folder of compiled programs; several hosts need one that all see, since the first process "
        "alone writes it; empty = ~/.cache/segr1_jax/xla, or JAX_COMPILATION_CACHE_DIR",
        path=True,
    )
    log_every: int = knob(1, "steps between metric lines")
    deterministic: bool = knob(
        True, "bitwise reproducible: fixed reductions where the backend offers them"
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
    optimizer: OptimizerConfig = section(OptimizerConfig, "optimiser")
    guard: GuardConfig = section(GuardConfig, "updates that are skipped")
    sft: SftConfig = section(SftConfig, "answers made from masks")
    mesh: MeshConfig = section(MeshConfig, "device mesh")
    hardware: HardwareConfig = section(HardwareConfig, "hardware that a plan reckons with")
    profile: ProfileConfig = section(ProfileConfig, "trace of an ordinary run")

    def __post_init__(self):
        require_choice("stage", self.stage, ("sft", "grpo"))
        require_choice("checkpoint_check", self.checkpoint_check, ("stop", "step_before", "off"))
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
        for name in ("seed", "eval_every", "eval_limit", "eval_max_tokens", "keep_best"):
            require_range(name, getattr(self, name), 0)

    @property
    def answer_tokens(self) -> int:
        """The longest answer of an evaluation."""
        return self.eval_max_tokens or self.rollout.max_tokens

    @property
    def updates(self) -> int:
        """Optimiser updates of the whole run, which the learning rate's schedule counts."""
        return self.steps * (self.objective.updates_per_rollout if self.stage == "grpo" else 1)

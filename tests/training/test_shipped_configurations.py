"""Every shipped configuration makes two steps on 8 fake devices, from data sets and weights.

Replaced are widths and weights (a tiny policy, the nano SAM2), frame, caps, batch, device, mesh and
sidecars, and the length of the run; everything else is the file's own.
"""

import json
import math
from pathlib import Path

import pytest

from segr1_jax.config.checks import check
from segr1_jax.config.loading import load_config
from segr1_jax.config.schema import RunConfig
from segr1_jax.data.sets.toy import OWN, write_toy_sets
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.training.loop import run_grpo, run_sft

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("compile_quickly")]

FOLDER = Path(__file__).parents[2] / "configs"
# One of each kind: SFT, points alone, adapters on one GPU, tensor groups with a frozen tower. The
# others are built of the same parts.
FAST = (
    "paper/sft_fcot_3b.yaml",
    "paper/prerl_dis5k_3b.yaml",
    "ours/rl_cod_3b_one_gpu.yaml",
    "ours/rl_cod_7b_v5e.yaml",
)
CONFIGS = [
    pytest.param(
        file,
        id=f"{file.parent.name}_{file.stem}",
        marks=[] if file.relative_to(FOLDER).as_posix() in FAST else pytest.mark.slow,
    )
    for file in sorted(FOLDER.glob("**/*.yaml"))
]
FRAME, DEVICES = 84, 8
TENSOR = 2  # of the mesh that stands for one with tensor groups


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A working directory with the data sets, and the policy from which others are linked."""
    place = tmp_path_factory.mktemp("place")
    write_toy_sets(place / "data")
    (place / OWN).symlink_to(place / "data" / OWN)
    make_tiny_policy(place / "tiny", seed=1, frame=FRAME)
    return place


def toy_size(config: RunConfig) -> list[str]:
    """What is replaced."""
    shards = DEVICES // TENSOR if config.mesh.tensor > 1 else DEVICES
    sizes = [
        *("steps=2", "optimizer.warmup_steps=0", "save_every=1", "eval_every=1"),
        *(f"batch={shards * config.micro_batches}", f"eval_batch={shards}"),
        *(f"prompt.frame={FRAME}", "prompt.max_tokens=128", "rollout.max_tokens=4"),
        *("reward.sam2_config=''", "reward.sam2_checkpoint=''", "reward.device=cpu"),
        *("reward.sidecars=2", "reward.threads=1"),
    ]
    if config.stage == "sft":
        # Answers are given, not sampled: they need their room.
        sizes.append("rollout.max_tokens=128")
    if config.data.kind == "synthetic":
        sizes += [f"{part}.{it}" for part in ("data", "eval_data") for it in ("size=84", "count=8")]
    if config.mesh.tensor > 1:
        return [*sizes, f"mesh.tensor={TENSOR}", f"mesh.fsdp={shards}"]
    return sizes


@pytest.mark.parametrize("file", CONFIGS)
def test_two_steps_at_toy_size(file, place, monkeypatch):
    monkeypatch.chdir(place)
    shipped = load_config(file)
    start = Path(shipped.policy.path)
    if not start.exists():
        start.parent.mkdir(parents=True, exist_ok=True)
        start.symlink_to(place / "tiny")
    run = f"run_dir=toy/{file.parent.name}_{file.stem}"
    config = load_config(file, [*toy_size(shipped), run])
    check(config)
    {"sft": run_sft, "grpo": run_grpo}[config.stage](config)
    metrics = Path(config.run_dir, "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in metrics.splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    assert Path(config.run_dir, "report.md").is_file()
    assert sorted(path.name for path in Path(config.run_dir, "checkpoints").iterdir()) == ["1", "2"]

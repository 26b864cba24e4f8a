"""Steps of a tiny policy by GRPO through the loop of `segr1 train`, with and without the sidecar.

The policy is random, so hardly an answer parses: the sidecar encodes the images and scores few
masks. Without it every mask gets the same score.
"""

import statistics
import tempfile
from pathlib import Path

from gpu_parts.request import Add, Request, attempt, on_gpu
from gpu_parts.segmenter import obstacle
from overlap import WARM_UP, Replay, step_seconds, train

from segr1_jax.config.loading import load_config
from segr1_jax.config.schema import RunConfig
from segr1_jax.hf.tiny_policy import make_tiny_policy
from segr1_jax.reward.client import RewardClient
from segr1_jax.types import Score, ScoreRequest, ScoreStatus

QUICKSTART = Path(__file__).parents[3] / "configs" / "quickstart_grpo.yaml"
STEPS, TOY_STEPS = 10, 2
FRAME, TOY_FRAME = 168, 84
SHORT = ("eval_every=0", "eval_first=false", "eval_batch=4", "eval_data.count=4", "keep_best=0")
TOY = [
    *("batch=4", "micro_batches=2", "prompt.max_tokens=48", "rollout.group=2"),
    *("rollout.max_tokens=4", "data.count=64"),
]
GPU = ["policy.compute_dtype=bfloat16", "reward.device=cuda", "reward.dtype=bfloat16"]


class SameScores(Replay):
    """A client without a sidecar, for which every mask is half right."""

    def __init__(self):
        self._tickets: list[list[ScoreRequest]] = []

    def submit(self, requests):
        self._tickets.append(list(requests))
        return len(self._tickets) - 1

    def collect(self, number):
        return [
            Score(ScoreStatus.OK, 0.5, 0.5, request.mask if request.want_mask else None)
            for request in self._tickets[number]
        ]


def measure(request: Request, add: Add) -> None:
    """Add the seconds of a step without and with the sidecar."""
    request.prepare_jax()
    with tempfile.TemporaryDirectory() as folder:
        config = tiny_config(request, Path(folder))
        run = Path(folder) / "without"
        attempt(add, "without the sidecar", lambda: steps(config, run, SameScores()))
        if lacking := obstacle(config.reward):
            add({"name": "with the sidecar", "skipped": lacking})
            return

        def with_sidecar() -> dict:
            return steps(config, Path(folder) / "with", RewardClient(config.reward))

        attempt(add, "with the sidecar", with_sidecar)


def tiny_config(request: Request, folder: Path) -> RunConfig:
    """Return the quickstart's configuration with a random policy in `folder`, and few steps."""
    frame = TOY_FRAME if request.toy else FRAME
    count = WARM_UP + (TOY_STEPS if request.toy else STEPS)
    policy = make_tiny_policy(folder / "policy", frame=frame)
    sizes = [f"prompt.frame={frame}", f"data.size={frame}", f"eval_data.size={frame}"]
    words = [*SHORT, *sizes, f"steps={count}", f"save_every={count}", "optimizer.warmup_steps=0"]
    words += [f"policy.path={policy}", f"reward.python={request.config.reward.python}"]
    return load_config(
        QUICKSTART, [*words, *(TOY if request.toy else []), *(GPU if on_gpu() else [])]
    )


def steps(config: RunConfig, run: Path, client) -> dict:
    """Train with `client` and return the median seconds of a step after the warm-up."""
    lines = train(config, run, client)
    waited = statistics.median(line["sidecar/wait_s"] for line in lines)
    return {"seconds": step_seconds(lines), "waited_s": waited, "steps": len(lines)}
